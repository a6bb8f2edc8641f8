//! Where a route leads: by weight, nowhere, for whom, and when it changes.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::{Duration, Instant};

use weft_tests::{HttpClient, SidecarPod, eventually};

use super::{ECHO, ECHO_V1, ECHO_V2, Rig, prefix, route};
use crate::in_pods;

#[test]
fn weights_are_kept_and_what_leads_nowhere_is_answered_with_500() {
    in_pods!(weights_are_kept_and_what_leads_nowhere_is_answered_with_500, || {
        let rig = Rig::start();
        // MeshHTTPRouteWeight.
        let weighted = |one: u32, two: u32| {
            format!(
                "backendRefs: [{{name: echo-v1, port: 8080, weight: {one}}}, {{name: echo-v2, port: 8080, weight: {two}}}]"
            )
        };
        rig.apply(&route("r", &format!("  - {{{}}}", weighted(70, 30))));
        let share = rig.share(1_000);
        assert!((640..=760).contains(&share), "{share} of 1000");
        rig.apply(&route("r", &format!("  - {{{}}}", weighted(0, 1))));
        assert_eq!(rig.share(50), 0);
        for (path, backends) in [
            ("/zero", weighted(0, 0)),
            ("/none", "backendRefs: []".to_owned()),
            ("/missing", "backendRefs: [{name: missing, port: 80}]".to_owned()),
            ("/port", "backendRefs: [{name: echo-v1, port: 81}]".to_owned()),
            ("/kind", "backendRefs: [{group: example.com, kind: Bucket, name: b}]".to_owned()),
            ("/theirs", "backendRefs: [{name: echo, namespace: other, port: 80}]".to_owned()),
        ] {
            rig.apply(&route("r", &prefix(path, &backends)));
            rig.check(path, "", "500 no-backend");
        }
        rig.apply(&route("r", &prefix("/", "backendRefs: [{name: nobody, port: 80}]")));
        rig.check("/", "", "503 no-endpoints");
        // What is missing comes to be: nothing needs to be applied again.
        rig.apply(&route("r", &prefix("/", "backendRefs: [{name: later, port: 80}]")));
        rig.check("/", "", "500 no-backend");
        rig.apply("apiVersion: v1\nkind: Service\nmetadata: {name: later}\nspec: {selector: {version: v2}, ports: [{port: 80, targetPort: 8080}]}");
        rig.check("/", "", "echo-v2");
    });
}

#[test]
fn a_route_is_for_who_calls_the_address_and_port_that_it_is_attached_to() {
    in_pods!(a_route_is_for_who_calls_the_address_and_port_that_it_is_attached_to, || {
        let rig = Rig::start();
        let marked = |name: &str, namespace: &str, service: &str, port: &str, value: &str| {
            format!(
                "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  \
                 parentRefs: [{{group: \"\", kind: Service, name: {service}, namespace: default{port}}}]\n  rules:\n  \
                 - filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: X-Header-Set, value: {value}}}]}}}}]\n    \
                 backendRefs: [{{name: {service}, namespace: default, port: 80}}]\n"
            )
        };
        let mark = |from: &SidecarPod, address: &str, port: u16, host: &str| {
            let host = host.to_owned();
            let answer = from.run(move || {
                HttpClient::connect((address, port))
                    .expect("a connection")
                    .get(&host, "/", "")
                    .expect("an answer")
            });
            assert_eq!(answer.status, 200, "{answer:?}");
            answer.header("x-header-set").unwrap_or_default().to_owned()
        };
        // MeshPorts: with a port only that one, without one all.
        rig.apply(
            &(marked("one", "default", "echo-v1", ", port: 80", "v1")
                + &marked("two", "default", "echo-v2", "", "v2")),
        );
        assert_eq!(mark(&rig.v1, ECHO_V1, 80, "echo-v1"), "v1");
        assert_eq!(mark(&rig.v1, ECHO_V1, 8080, "echo-v1"), "");
        assert_eq!(mark(&rig.v1, ECHO_V2, 80, "echo-v2"), "v2");
        assert_eq!(mark(&rig.v1, ECHO_V2, 8080, "echo-v2"), "v2");
        // MeshFrontendHostname: by the address, never by what the caller calls it.
        assert_eq!(mark(&rig.v1, ECHO_V2, 80, "echo-v1"), "v2");
        assert_eq!(mark(&rig.v1, ECHO_V1, 80, "echo-v2"), "v1");
        // MeshFrontend: not for calls to the pod's own address, nor for those that another route sends there.
        let pod = rig.v2.address().to_string();
        assert_eq!(mark(&rig.v1, &pod, 8080, "echo-v2"), "");
        rig.apply(&route("through", "  - {backendRefs: [{name: echo-v2, port: 80}]}"));
        assert_eq!(mark(&rig.v1, ECHO, 80, "echo"), "");
        // MeshConsumerRoute: only for callers of its own namespace, for whom it replaces the service's own.
        assert_eq!(mark(&rig.consumer, ECHO_V2, 80, "echo-v2"), "v2");
        rig.apply(&marked("theirs", "consumers", "echo-v2", "", "consumer"));
        assert_eq!(mark(&rig.consumer, ECHO_V2, 80, "echo-v2"), "consumer");
        assert_eq!(mark(&rig.v1, ECHO_V2, 80, "echo-v2"), "v2");
        rig.mesh.weft_ok(&["delete", "httproute", "theirs", "-n", "consumers"]);
        rig.settle();
        assert_eq!(mark(&rig.consumer, ECHO_V2, 80, "echo-v2"), "v2");
    });
}

#[test]
fn faults_strike_what_is_called_and_what_a_route_leads_to() {
    in_pods!(faults_strike_what_is_called_and_what_a_route_leads_to, || {
        let rig = Rig::start();
        let fault = |name: &str, status: u16| {
            format!(
                "---\napiVersion: weft.mesh/v1alpha1\nkind: FaultInjection\nmetadata: {{name: {name}}}\nspec:\n  \
                 targetRef: {{kind: Service, name: {name}}}\n  match: {{headers: [{{name: x-chaos, value: {name}}}]}}\n  \
                 abort: {{status: {status}}}\n"
            )
        };
        let rules = "  - {matches: [{path: {type: PathPrefix, value: /old}}], \
                     filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /new}}}]}\n  \
                     - {backendRefs: [{name: echo-v2, port: 8080}]}";
        rig.apply(
            &(route("r", rules) + &fault("echo", 418) + &fault("echo-v1", 501) + &fault("echo-v2", 507)),
        );
        rig.check("/", "", "echo-v2");
        rig.check("/", "x-chaos: echo\r\n", "418 fault-injected");
        rig.check("/", "x-chaos: echo-v2\r\n", "507 fault-injected");
        rig.check("/", "x-chaos: echo-v1\r\n", "echo-v2");
        rig.check("/", "x-chaos: echo\r\nx-chaos: echo-v2\r\n", "418 fault-injected");
        rig.check("/old", "x-chaos: echo\r\n", "302 http://echo/new");
    });
}

/// How long a changed route may take to hold everywhere, on a machine that runs other tests.
const TAKES_EFFECT: Duration = Duration::from_secs(2);

#[test]
fn a_route_changed_under_load_takes_effect_and_fails_nothing() {
    in_pods!(a_route_changed_under_load_takes_effect_and_fails_nothing, || {
        let rig = Rig::start();
        let to = |version: u8| {
            route("r", &format!("  - {{backendRefs: [{{name: echo-v{version}, port: 8080}}]}}"))
        };
        rig.apply(&to(1));
        let (done, serving) = (AtomicBool::new(false), AtomicU8::new(1));
        let (answered, mut late) = std::thread::scope(|scope| {
            let load = scope.spawn(|| {
                rig.v1.run(|| {
                    let mut clients: Vec<_> =
                        (0..4).map(|_| HttpClient::connect((ECHO, 80)).expect("a connection")).collect();
                    let mut log = Vec::new();
                    while !done.load(Ordering::Relaxed) {
                        for client in &mut clients {
                            let begun = Instant::now();
                            let answer = client.get("echo", "/", "").expect("an answer");
                            assert_eq!(answer.status, 200, "{answer:?}");
                            let version = if answer.header("served-by") == Some("echo-v1") { 1 } else { 2 };
                            serving.store(version, Ordering::Relaxed);
                            log.push((begun, version));
                        }
                    }
                    log
                })
            });
            let mut applied = Vec::new();
            for round in 0..10_u8 {
                let version = 2 - round % 2;
                let file = rig.mesh.scratch().join("changed.yaml");
                fs::write(&file, to(version)).expect("a file");
                rig.mesh.weft_ok(&["apply", "-f", file.to_str().expect("a path")]);
                let at = Instant::now();
                eventually("the change takes effect", TAKES_EFFECT, || {
                    serving.load(Ordering::Relaxed) == version
                });
                applied.push((at, Instant::now(), version));
            }
            done.store(true, Ordering::Relaxed);
            let log = load.join().expect("the load ran");
            // The last request that still went where they went before, begun after `weft apply` had returned.
            let late = applied.iter().map(|(at, end, version)| {
                let stale = log.iter().filter(|(begun, to)| begun > at && begun < end && to != version);
                stale.map(|(begun, _)| *begun - *at).max().unwrap_or_default()
            });
            (log.len(), late.collect::<Vec<_>>())
        });
        late.sort_unstable();
        println!("{answered} requests; changes took effect {late:?} after they were applied");
        // How fast it is depends on what else the machine does; that it happens, and fails nothing, does not.
        assert!(answered > 100 && late.iter().all(|late| *late < TAKES_EFFECT), "{answered}, {late:?}");
    });
}
