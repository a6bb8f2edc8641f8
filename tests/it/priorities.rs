//! TrafficPolicy's loadBalancing.priorities: some pods are called first, and others only when too few of those are left.

use std::fs;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socket2::SockRef;
use weft_tests::{HttpClient, Mesh, Options, SidecarPod, eventually};

use crate::policy::{ask, client, orders, policy, say_name, settle, shares};
use crate::{in_pods, weft};

/// An app that says its name, until it is stopped.
struct Stoppable {
    listener: TcpListener,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Stoppable {
    fn start(pod: &SidecarPod, name: &'static str) -> Self {
        let address = SocketAddr::from(([0; 16], 8080));
        let listener = pod.run(|| TcpListener::bind(address)).expect("a free port in the pod");
        let accepting = listener.try_clone().expect("a listener");
        let open = Arc::<Mutex<Vec<TcpStream>>>::default();
        let opened = Arc::clone(&open);
        std::thread::spawn(move || {
            for stream in accepting.incoming().map_while(Result::ok) {
                opened.lock().expect("whole").push(stream.try_clone().expect("a stream"));
                std::thread::spawn(move || say_name(stream, name));
            }
        });
        Self { listener, open }
    }

    /// Nobody listens any more, and nothing is open.
    fn stop(self) {
        SockRef::from(&self.listener).shutdown(Shutdown::Both).expect("an end");
        for stream in self.open.lock().expect("whole").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn pod(mesh: &Mesh, name: &str, labels: &str, zone: &str) -> SidecarPod {
    let arguments = ["token", "create", "--service-account", "orders", "--service", "orders"];
    let token = mesh.weft_ok(&arguments);
    mesh.pod_with_token(name, "orders:8080:http", &token, &[("WEFT_LABELS", labels), ("WEFT_ZONE", zone)])
}

/// Waits until the client thinks so of so many endpoints.
fn failing(client: &SidecarPod, count: usize) {
    eventually("the client hears of it", Duration::from_secs(15), || {
        let (_, text) = client.admin("/config").unwrap_or_default();
        text.matches("\"healthy\": false").count() == count
    });
}

/// Ends the load, whatever becomes of the test.
struct Stopping<'a>(&'a AtomicBool);

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Asks again and again on one connection, and says how often it was answered.
fn ask_until(stop: &AtomicBool, orders: SocketAddr) -> u32 {
    let mut connection = HttpClient::connect(orders).expect("a connection");
    let mut answered = 0;
    while !stop.load(Ordering::Relaxed) {
        let answer = connection.get("orders:8080", "/", "").expect("an answer");
        assert_eq!(answer.status, 200, "{answer:?}");
        answered += 1;
    }
    answered
}

/// What `weft explain` says of each priority.
fn explained(mesh: &Mesh) -> Vec<String> {
    let told = mesh.weft_json(&["explain", "--from", "client", "--to", "orders", "GET", "/"]);
    let steps = told["steps"].as_array().expect("steps").iter();
    let of_priority = steps.filter(|step| step["stage"] == "priority");
    of_priority.map(|step| step["text"].as_str().expect("a text").to_owned()).collect()
}

#[test]
fn pods_that_come_first_are_called_until_they_are_gone_and_again_when_they_are_back() {
    in_pods!(pods_that_come_first_are_called_until_they_are_gone_and_again_when_they_are_back, || {
        let mesh = Mesh::start(weft(), Options::default());
        let (one, two) = (pod(&mesh, "one", "site=main", "a"), pod(&mesh, "two", "site=main", "b"));
        let (three, four) = (pod(&mesh, "three", "site=standby", "a"), pod(&mesh, "four", "", "a"));
        let main = [Stoppable::start(&one, "one"), Stoppable::start(&two, "two")];
        let standby = Stoppable::start(&three, "three");
        let _last = Stoppable::start(&four, "four");
        let client = client(&mesh, "a");
        let orders = orders(&mesh, &client);
        let check = "healthCheck: {tcp: {}, interval: 100ms, unhealthyAfter: 2, healthyAfter: 1}";
        let first = "loadBalancing: {policy: RoundRobin, priorities: [{labels: {site: main}}, {labels: {site: standby}}]}";
        policy(&mesh, &format!("{first}\n  {check}"));
        settle(&mesh);
        assert_eq!(shares(&ask(&client, orders, 40)), [("one", 20), ("two", 20)].into());
        let listed = client.admin("/config").expect("an answer").1;
        for (priority, pods) in [(1, 2), (2, 1), (3, 1)] {
            assert_eq!(listed.matches(&format!("\"priority\": {priority}")).count(), pods, "{listed}");
        }

        // None of the first is left: what they cannot take goes on to the next, also before anyone has told the client of it.
        main.into_iter().for_each(Stoppable::stop);
        assert_eq!(shares(&ask(&client, orders, 40)), [("three", 40)].into());
        failing(&client, 2);
        assert_eq!(shares(&ask(&client, orders, 40)), [("three", 40)].into());
        let told = [
            "1: site=main: 0 of 2 work and get 0% of the calls",
            "2: site=standby: 1 of 1 work and get 100% of the calls",
            "3: all others: 1 of 1 work and get 0% of the calls",
        ];
        assert_eq!(explained(&mesh), told);
        standby.stop();
        assert_eq!(shares(&ask(&client, orders, 40)), [("four", 40)].into());

        // Half of them is back, and takes what it can: 50 of 70.
        let _one = Stoppable::start(&one, "one");
        let _three = Stoppable::start(&three, "three");
        failing(&client, 1);
        let both = ask(&client, orders, 400);
        let both = shares(&both);
        assert!((230..=340).contains(&both["one"]) && both["one"] + both["three"] == 400, "{both:?}");
        let _two = Stoppable::start(&two, "two");
        failing(&client, 0);
        assert_eq!(shares(&ask(&client, orders, 40)), [("one", 20), ("two", 20)].into());

        // An order that changes under load fails nothing.
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let load = scope.spawn(|| client.run(|| ask_until(&stop, orders)));
            let _stopping = Stopping(&stop);
            for (site, who) in [("standby", &["three"][..]), ("main", &["one", "two"])].repeat(3) {
                let spec = format!("loadBalancing: {{priorities: [{{labels: {{site: {site}}}}}]}}");
                policy(&mesh, &format!("{spec}\n  {check}"));
                settle(&mesh);
                let answers = ask(&client, orders, 20);
                assert!(answers.iter().all(|answer| who.contains(&answer.as_str())), "{site}: {answers:?}");
            }
            stop.store(true, Ordering::Relaxed);
            assert!(load.join().expect("no failure") > 0);
        });

        // Another order is in force at once, and what is not said of a group is its own affair: here the caller's zone.
        let path = mesh.scratch().join("policy.yaml");
        let second = "loadBalancing: {policy: RoundRobin, locality: {prefer: Zone}, priorities: [{labels: {site: main}}]}";
        policy(&mesh, &format!("{second}\n  {check}"));
        settle(&mesh);
        assert_eq!(shares(&ask(&client, orders, 40)), [("one", 40)].into());
        let text = fs::read_to_string(&path).expect("the policy");
        fs::write(&path, text.replace("[{labels: {site: main}}]", "[{zone: b}, {zoneOf: Caller}]"))
            .expect("a file");
        mesh.weft_ok(&["apply", "-f", path.to_str().expect("a path")]);
        settle(&mesh);
        assert_eq!(shares(&ask(&client, orders, 40)), [("two", 40)].into());
        let told = [
            "1: zone b: 1 of 1 work and get 100% of the calls",
            "2: the caller's zone (a): 3 of 3 work and get 0% of the calls",
            "3: all others: 0 of 0 work and get 0% of the calls",
        ];
        assert_eq!(explained(&mesh), told);
    });
}
