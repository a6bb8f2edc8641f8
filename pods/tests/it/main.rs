//! Pods and interception against the real kernel.
//!
//! As root, or as an ordinary user in a user namespace. A machine that allows neither skips everything, loudly, or fails
//! where `WEFT_REFUSE_SKIPS=1`. What needs another process starts this very program again (see `children`).

// Marked so that clippy knows the helpers for tests as well.
#[cfg(test)]
mod children;
#[cfg(test)]
mod intercept;
#[cfg(test)]
mod pods;
#[cfg(test)]
mod rights;
#[cfg(test)]
mod wire;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

/// Each by the name that the standard harness would give it.
macro_rules! trials {
    ($($module:ident::$name:ident,)*) => {
        vec![$(Trial::test(concat!(stringify!($module), "::", stringify!($name)), || {
            $module::$name();
            Ok(())
        }),)*]
    };
}

fn main() -> ExitCode {
    if children::plays_a_role() {
        return ExitCode::SUCCESS;
    }
    let trials = trials![
        intercept::what_an_application_sends_arrives_at_its_sidecar_with_its_destination,
        intercept::what_is_sent_to_a_pod_arrives_at_its_sidecar_with_its_destination,
        intercept::the_sidecars_own_ports_are_reached_as_they_are,
        intercept::calls_to_the_pod_itself_are_not_intercepted,
        intercept::skipped_ports_and_networks_are_not_intercepted,
        intercept::connections_from_before_are_left_alone_by_up_and_down,
        intercept::connections_that_are_redirected_go_on_when_the_rules_are_replaced,
        intercept::an_app_may_be_called_from_its_callers_own_address,
        intercept::marked_sockets_are_let_through,
        intercept::the_sidecars_user_is_let_through_and_nobody_else,
        intercept::what_a_sidecar_sends_goes_out_as_it_is,
        intercept::dns_is_answered_by_the_sidecar_wherever_the_resolver_is,
        intercept::dns_is_left_alone_where_its_port_is_skipped_but_not_its_network,
        intercept::rules_are_read_back_as_they_were_asked_for_however_often,
        intercept::the_longest_lists_fit,
        intercept::taking_the_rules_down_restores_direct_calls_and_leaves_no_table,
        pods::pods_and_the_hub_reach_each_other_by_both_families,
        pods::the_hub_stays_where_it_is_on_the_link_whoever_comes_and_goes,
        pods::this_machine_tests_ipv6,
        pods::the_hubs_addresses_can_be_listened_on_before_there_is_a_pod,
        pods::every_pod_has_addresses_of_its_own,
        pods::what_is_nowhere_is_refused_at_once,
        pods::any_program_in_a_pod_may_listen_on_low_ports,
        pods::a_program_that_is_not_there_is_named,
        pods::a_namespace_without_a_bridge_is_no_hub,
        pods::pods_of_two_owners_share_a_hub_without_sharing_addresses,
        pods::killing_the_owner_of_a_pod_removes_its_link_and_it_all,
        pods::two_runs_of_a_user_share_a_hub,
        pods::a_run_that_ends_leaves_nothing_that_a_snapshot_sees,
        rights::an_ordinary_user_can_do_all_of_this,
    ];
    let trials = if rights::obtained_or_skipped() { trials } else { skipped(trials) };
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn skipped(trials: Vec<Trial>) -> Vec<Trial> {
    trials.into_iter().map(|trial| trial.with_ignored_flag(true)).collect()
}
