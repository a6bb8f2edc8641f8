//! A disk that is full: nothing is said to be done that was not written, nothing that was is lost, and room is enough to go on.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};

use weft_tests::{App, HttpClient, Mesh, Options, eventually, program};

use crate::{in_pods, weft};

#[test]
fn a_full_disk_refuses_changes_and_nothing_else_until_there_is_room() {
    in_pods!(a_full_disk_refuses_changes_and_nothing_else_until_there_is_room, || {
        if program(&["unshare"]).is_none() {
            return;
        }
        let mesh = Mesh::start(weft(), Options { disk: Some("16m"), ..Options::default() });
        let server = mesh.pod("server", "server:8080");
        let client = mesh.pod("client", "");
        let _app = App::echo(&server, 8080);
        let apply = |name: &str| {
            let file = mesh.scratch().join("service.yaml");
            let note = "x".repeat(100_000);
            let text = format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, annotations: {{note: {note}}}}}\nspec: {{ports: [{{port: 80}}]}}\n"
            );
            fs::write(&file, text).expect("a document");
            mesh.weft(&["apply", "-f", file.to_str().expect("text")])
        };
        assert!(apply("before").status.success());

        let filler = mesh.disk().join("filler");
        let mut file = File::create(&filler).expect("a file");
        let full = loop {
            if let Err(error) = file.write_all(&[0; 4096]) {
                break error;
            }
        };
        assert_eq!(full.kind(), ErrorKind::StorageFull);
        let mut done = vec!["before".to_owned()];
        let mut refused = 0;
        for round in 0..60 {
            let name = format!("full-{round}");
            let output = apply(&name);
            if output.status.success() {
                done.push(name);
                continue;
            }
            refused += 1;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(said.contains("store"), "{said}");
            if refused == 3 {
                break;
            }
        }
        assert_eq!(refused, 3, "the store grew beyond its disk");
        // What is known goes on.
        let answer = client.run(|| {
            HttpClient::connect((server.address(), 8080)).and_then(|mut it| it.get("server:8080", "/", ""))
        });
        assert_eq!(answer.expect("an answer").status, 200);
        assert_eq!(mesh.weft_json(&["status"]).as_array().map(Vec::len), Some(2));

        fs::remove_file(&filler).expect("room again");
        drop(file);
        eventually("changes are taken again", std::time::Duration::from_secs(20), || {
            let output = apply("after");
            if output.status.success() {
                done.push("after".to_owned());
            }
            output.status.success()
        });
        let history = mesh.weft_json(&["history"]);
        assert_eq!(history.as_array().map(Vec::len), Some(done.len()), "{history}");
        for name in &done {
            mesh.weft_ok(&["get", "service", name]);
        }
    });
}
