//! `weft-proxy intercept up|down|show`: the packet filter of the network namespace we run in.

use std::io::{self, Write as _};
use std::str::FromStr;

use anyhow::Context as _;
use weft_pods::intercept::{self, Cidr, PortRange, Rules};

use crate::config::{InterceptAction, InterceptArgs};

/// Does what was asked.
pub(crate) fn run(action: InterceptAction) -> anyhow::Result<()> {
    match action {
        InterceptAction::Up(args) => {
            intercept::up(&rules(&args)?).context("cannot program the packet filter")
        }
        InterceptAction::Down => intercept::down().context("cannot clear the packet filter"),
        InterceptAction::Show => match intercept::show().context("cannot read the packet filter")? {
            Some(ruleset) => writeln!(io::stdout(), "{ruleset}").context("cannot print"),
            None => writeln!(io::stdout(), "nothing is intercepted here").context("cannot print"),
        },
    }
}

fn rules(args: &InterceptArgs) -> anyhow::Result<Rules> {
    Ok(Rules {
        proxy_uid: args.mark.is_none().then_some(args.uid),
        proxy_mark: args.mark,
        skip_inbound_ports: all::<PortRange>("--skip-inbound-ports", &args.skip_inbound_ports)?,
        skip_outbound_ports: all::<PortRange>("--skip-outbound-ports", &args.skip_outbound_ports)?,
        skip_outbound_cidrs: all::<Cidr>("--skip-outbound-cidrs", &args.skip_outbound_cidrs)?,
        source: args.source(),
        ..Rules::default()
    })
}

fn all<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(
    flag: &'static str,
    texts: &[String],
) -> anyhow::Result<Vec<T>> {
    texts.iter().map(|text| text.parse().context(flag)).collect()
}
