//! Requests that stay with one pod: by a cookie whose hash decides, and by the sessions of routes.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use weft_tests::{Mesh, Options, Response, SidecarPod, eventually};

use crate::policy::{client, get, heard, orders, policy, server};
use crate::{in_pods, weft};

fn route(mesh: &Mesh, client: &SidecarPod, session: &str) {
    let text = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: orders}}\nspec:\n  parentRefs: [{{group: \"\", kind: Service, name: orders}}]\n  rules:\n  - backendRefs: [{{name: orders, port: 8080}}]\n    sessionPersistence: {session}\n"
    );
    let path = mesh.scratch().join("route.yaml");
    fs::write(&path, text).expect("a document");
    mesh.weft_ok(&["apply", "-f", path.to_str().expect("a path")]);
    let revision = mesh.weft_json(&["history"])[0]["revision"].to_string();
    heard(client, &format!("\"revision\": {revision}"));
}

/// The cookie that a response sets: `NAME=VALUE`, and its attributes.
fn cookie(response: &Response) -> Option<(String, String)> {
    let (pair, attributes) = response.header("set-cookie")?.split_once("; ")?;
    Some((pair.to_owned(), attributes.to_owned()))
}

/// Who answers these requests.
fn who(client: &SidecarPod, to: SocketAddr, field: &str) -> BTreeSet<String> {
    (0..10).map(|_| get(client, to, &format!("{field}\r\n")).text()).collect()
}

#[test]
fn a_session_stays_with_its_pod_while_that_is_there() {
    in_pods!(a_session_stays_with_its_pod_while_that_is_there, || {
        let mesh = Mesh::start(weft(), Options::default());
        let mut pods: Vec<_> = ["one", "two", "three"].map(|name| (name, server(&mesh, name, ""))).into();
        let client = client(&mesh, "");
        let orders = orders(&mesh, &client);
        policy(&mesh, "loadBalancing: {policy: RoundRobin}");
        route(&mesh, &client, "{sessionName: shop, type: Cookie}");
        let first = get(&client, orders, "");
        let (pair, attributes) = cookie(&first).expect("a cookie");
        assert!(
            pair.starts_with("shop=") && attributes == "Path=/; HttpOnly; SameSite=Lax",
            "{pair}; {attributes}"
        );
        let brought = format!("cookie: a=1; {pair}");
        assert_eq!(who(&client, orders, &brought), [first.text()].into());
        assert_eq!(cookie(&get(&client, orders, &format!("{brought}\r\n"))), None, "it is known already");
        // Others are balanced as ever.
        assert_eq!(who(&client, orders, "cookie: a=1").len(), 3);
        // What names no pod of the service leads nowhere else.
        let forged = format!("cookie: shop={}", "0123456789abcdef".repeat(3));
        let answer = get(&client, orders, &format!("{forged}\r\n"));
        assert_eq!((answer.status, cookie(&answer).is_some()), (200, true));
        assert_eq!(who(&client, orders, &forged).len(), 3);
        // Its pod goes: the session is with another from then on.
        pods.retain(|(name, _)| *name != first.text());
        eventually("another pod answers", Duration::from_secs(10), || {
            get(&client, orders, &format!("{brought}\r\n")).text() != first.text()
        });
        let moved = get(&client, orders, &format!("{brought}\r\n"));
        let (pair, _) = cookie(&moved).expect("another cookie");
        assert_eq!(who(&client, orders, &format!("cookie: {pair}")), [moved.text()].into());
    });
}

#[test]
fn sessions_are_carried_in_a_header_or_end_after_their_time_where_that_is_said() {
    in_pods!(sessions_are_carried_in_a_header_or_end_after_their_time_where_that_is_said, || {
        let mesh = Mesh::start(weft(), Options::default());
        let _pods = ["one", "two"].map(|name| server(&mesh, name, ""));
        let client = client(&mesh, "");
        let orders = orders(&mesh, &client);
        policy(&mesh, "loadBalancing: {policy: RoundRobin}");
        route(&mesh, &client, "{sessionName: X-Shop, type: Header}");
        let first = get(&client, orders, "");
        let session = first.header("x-shop").expect("a session").to_owned();
        assert_eq!(who(&client, orders, &format!("x-shop: {session}")), [first.text()].into());
        assert_eq!(who(&client, orders, "x-shop: nonsense").len(), 2);

        route(&mesh, &client, "{absoluteTimeout: 2s, cookieConfig: {lifetimeType: Permanent}}");
        let (pair, attributes) = cookie(&get(&client, orders, "")).expect("a cookie");
        assert!(
            pair.starts_with("weft-session-") && attributes.starts_with("Path=/; Max-Age=2; "),
            "{pair}; {attributes}"
        );
        let brought = format!("cookie: {pair}\r\n");
        assert_eq!(cookie(&get(&client, orders, &brought)), None);
        eventually("the session is over", Duration::from_secs(10), || {
            cookie(&get(&client, orders, &brought)).is_some_and(|(other, _)| other != pair)
        });
    });
}

#[test]
fn a_cookie_that_is_hashed_is_given_to_who_has_none() {
    in_pods!(a_cookie_that_is_hashed_is_given_to_who_has_none, || {
        let mesh = Mesh::start(weft(), Options::default());
        let _pods = ["one", "two", "three"].map(|name| server(&mesh, name, ""));
        let client = client(&mesh, "");
        let orders = orders(&mesh, &client);
        policy(
            &mesh,
            "loadBalancing: {policy: ConsistentHash, consistentHash: {cookie: {name: user, path: /shop, ttl: 1m}}}",
        );
        heard(&client, "HashCookie");
        let mut pods = BTreeSet::new();
        for _ in 0..20 {
            let first = get(&client, orders, "");
            let (pair, attributes) = cookie(&first).expect("a cookie");
            assert!(
                pair.starts_with("user=") && attributes == "Path=/shop; Max-Age=60; HttpOnly; SameSite=Lax"
            );
            let next = get(&client, orders, &format!("cookie: {pair}\r\n"));
            assert_eq!((next.text(), cookie(&next)), (first.text(), None));
            pods.insert(first.text());
        }
        assert!(pods.len() > 1, "they are spread: {pods:?}");
    });
}
