//! TrafficPolicy's hedging: a pod that is slow to answer is overtaken by another.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use weft_tests::{App, Mesh, Options, eventually};

use crate::policy::{bare_server, client, get, heard, orders, policy, server};
use crate::{in_pods, weft};

#[test]
fn a_pod_that_hangs_costs_its_callers_a_tenth_of_a_second() {
    in_pods!(a_pod_that_hangs_costs_its_callers_a_tenth_of_a_second, || {
        let mesh = Mesh::start(weft(), Options::default());
        let stuck = bare_server(&mesh, "one", "");
        // Takes requests and never answers; a thread of its own ends when its connection does.
        let (told, ended) = std::sync::mpsc::channel();
        let app = App::serve(&stuck, 8080, move |stream: TcpStream| {
            let _ = std::io::copy(&mut &stream, &mut std::io::sink());
            let _ = told.send(());
        });
        let (_two, _app_two) = server(&mesh, "two", "");
        let client = client(&mesh, "");
        let orders = orders(&mesh, &client);
        policy(
            &mesh,
            "loadBalancing: {policy: Random}\n  hedging: {after: 100ms}\n  retries: {attempts: 0, budget: {minPerSecond: 100}}",
        );
        heard(&client, "Hedging");
        for _ in 0..20 {
            let begun = Instant::now();
            assert_eq!(get(&client, orders, "").text(), "two");
            assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        }
        assert!(app.connections() > 0, "by chance the stuck one was never asked");
        let hedges = client.metric("weft_hedges_total", &["direction=\"outbound\""]);
        assert!(hedges > 0.0, "{hedges}");
        eventually("the stuck app is told that nobody waits", Duration::from_secs(10), || {
            ended.try_recv().is_ok()
        });
    });
}
