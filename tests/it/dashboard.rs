//! The dashboard: what runs for whoever reaches it, how it is configured for administrators; nothing in it is run by a browser.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use weft_tests::{App, HttpClient, Mesh, Options, Response, eventually};

use crate::{in_pods, weft};

/// No trace has this id.
const NO_TRACE: &str = "/traces/00000000000000000000000000000000";

/// A page, asked for where the control plane runs.
fn page(mesh: &Mesh, path: &str, more: &str) -> Response {
    let address: SocketAddr = "127.0.0.1:7080".parse().expect("an address");
    mesh.in_hub(|| {
        HttpClient::connect(address).expect("a connection").get("weft", path, more).expect("an answer")
    })
}

/// Sends the form with a token; the answer, and the session's cookie as a request's field.
fn log_in(mesh: &Mesh, token: &str, then: &str) -> (Response, String) {
    let address: SocketAddr = "127.0.0.1:7080".parse().expect("an address");
    let form = format!("token={token}&then={then}");
    let request = format!(
        "POST /login HTTP/1.1\r\nhost: weft\r\ncontent-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n{form}",
        form.len()
    );
    let answer = mesh.in_hub(|| {
        let mut connection = HttpClient::connect(address).expect("a connection");
        connection.send(request.as_bytes()).expect("an answer")
    });
    let cookie = answer.header("set-cookie").and_then(|cookie| cookie.split(';').next()).unwrap_or_default();
    let field = format!("cookie: {cookie}\r\n");
    (answer, field)
}

#[test]
fn it_shows_what_runs_to_all_and_how_it_is_configured_to_administrators() {
    in_pods!(it_shows_what_runs_to_all_and_how_it_is_configured_to_administrators, || {
        let mesh = Mesh::start(weft(), Options::default());
        let (server, client) = (mesh.pod("orders", "orders:8080"), mesh.pod("web", ""));
        let _app = App::echo(&server, 8080);
        let path = mesh.scratch().join("sampling.yaml");
        let text = "apiVersion: weft.mesh/v1alpha1\nkind: MeshConfig\nmetadata: {name: default}\nspec: {tracing: {sampling: 100%}}\n";
        fs::write(&path, text).expect("a document");
        mesh.weft_ok(&["apply", "-f", path.to_str().expect("a path")]);
        eventually("a call is traced and drawn", Duration::from_secs(20), || {
            let called = client.run(|| {
                let mut connection = HttpClient::connect((server.address(), 8080)).ok()?;
                connection.get("orders", "/%3Cscript%3E<script>", "").ok()
            });
            called.is_some() && page(&mesh, "/", "").text().contains("class=\"map\"")
        });

        for path in ["/", "/traces", "/sidecars", "/services/default/orders"] {
            let shown = page(&mesh, path, "");
            assert_eq!(shown.status, 200, "{path}");
            let policy = shown.header("content-security-policy").unwrap_or_default();
            assert!(policy.starts_with("default-src 'none'; style-src 'self'"), "{path}: {policy}");
            assert!(shown.text().contains("orders") && !shown.text().contains("<script"), "{}", shown.text());
        }
        assert!(page(&mesh, "/sidecars", "").text().contains("spiffe://mesh.local/ns/default/sa/orders"));
        let traces = page(&mesh, "/traces?service=orders", "").text();
        let (_, id) = traces.split_once("href=\"/traces/").expect("a trace");
        let trace = page(&mesh, &format!("/traces/{}", &id[..32]), "").text();
        assert!(trace.contains("weft.tls</code></td><td>mutual"), "{trace}");
        for path in [NO_TRACE, "/services/default/nobody", "/services/a/b/c", "/configuration/9x"] {
            assert!(matches!(page(&mesh, path, "").status, 401 | 404), "{path}");
        }

        let refused = page(&mesh, "/explain?from=web&to=orders", "");
        assert_eq!(refused.status, 401);
        assert!(refused.text().contains("value=\"/explain?from=web&amp;to=orders\""), "{}", refused.text());
        let (wrong, no_cookie) = log_in(&mesh, "guessed", "/explain");
        assert_eq!((wrong.status, no_cookie.as_str()), (401, "cookie: \r\n"));
        let viewer = mesh.weft_ok(&["token", "create", "--admin", "viewer"]);
        let (seen, cookie) = log_in(&mesh, viewer.trim(), "%2Fexplain%3Ffrom%3Dweb%26to%3Dorders");
        assert_eq!((seen.status, seen.header("location")), (303, Some("/explain?from=web&to=orders")));
        let told = page(&mesh, "/explain?from=web&to=orders", &cookie).text();
        assert!(told.contains("<b class=\"good\">forward</b>"), "{told}");
        assert!(page(&mesh, "/configuration", &cookie).text().contains("MeshConfig default"));
        assert!(page(&mesh, "/configuration/1", &cookie).text().contains("class=\"add\">+"));
        assert!(page(&mesh, "/configuration/7", &cookie).text().contains("there is no revision 7"));

        let listed = mesh.weft_json(&["token", "list"]);
        let tokens = listed.as_array().expect("a list");
        let is_viewers = |token: &&serde_json::Value| token["admin"] == "viewer";
        let id = tokens
            .iter()
            .find(is_viewers)
            .and_then(|token| token["id"].as_str())
            .expect("the viewer's token");
        mesh.weft_ok(&["token", "revoke", id]);
        assert_eq!(page(&mesh, "/configuration", &cookie).status, 401, "with its token its sessions end");
    });
}
