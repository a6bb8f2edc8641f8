//! Configuration: mistakes are named with their place and change nothing; what was applied can be taken back.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use weft_tests::{HttpClient, Mesh, Options, SidecarPod, eventually};

use crate::policy::{client, orders, server};
use crate::{in_pods, weft};

const GOOD: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: orders}\nspec:\n  ports: [{port: 80, targetPort: 8080}]\n";

#[test]
fn every_mistake_is_refused_with_its_place_and_a_suggestion() {
    in_pods!(every_mistake_is_refused_with_its_place_and_a_suggestion, || {
        let mesh = Mesh::start(weft(), Options::default());
        let check = |text: &str, line: usize, says: &[&str]| {
            let file = mesh.scratch().join("bad.yaml");
            fs::write(&file, text).expect("a file");
            let output = mesh.weft(&["apply", "-f", file.to_str().expect("a path")]);
            let error = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{text}\n{error}");
            let place = format!("bad.yaml:{line}");
            assert!(error.contains(&place), "{place} is not in: {error}");
            for part in says {
                assert!(error.contains(part), "{part:?} is not in: {error}");
            }
        };
        check(&GOOD.replace("ports:", "prots:"), 5, &["prots", "ports"]);
        check(&GOOD.replace("port: 80,", "port: eighty,"), 5, &["eighty", "number"]);
        check(&GOOD.replace("port: 80,", "port: 70000,"), 5, &["70000"]);
        check(&format!("{GOOD}---\n{GOOD}"), 7, &["orders", "bad.yaml:1"]);
        check(&GOOD.replace("Service", "Servcie"), 2, &["Servcie", "Service"]);
        check("apiVersion: v1\nkind: Service\nmetadata: {name: [}\n", 3, &[]);
        check(
            "apiVersion: weft.mesh/v1alpha1\nkind: MeshConfig\nmetadata: {name: default}\nspec: {mtls: {mode: Strickt}}\n",
            4,
            &["Strict"],
        );
        assert_eq!(mesh.weft_json(&["get", "services", "-A"]), serde_json::json!([]), "nothing was changed");
    });
}

#[test]
fn a_bad_file_in_the_watched_folder_keeps_the_last_good_state() {
    in_pods!(a_bad_file_in_the_watched_folder_keeps_the_last_good_state, || {
        let mesh = Mesh::start(
            weft(),
            Options { config: vec![("orders.yaml", GOOD.to_owned())], ..Options::default() },
        );
        let names = || {
            let services = mesh.weft_json(&["get", "services"]);
            let services = services.as_array().cloned().unwrap_or_default();
            services
                .iter()
                .filter_map(|s| s["metadata"]["name"].as_str().map(str::to_owned))
                .collect::<Vec<_>>()
        };
        eventually("the folder was read", Duration::from_secs(10), || names() == ["orders"]);
        fs::write(mesh.config().join("bad.yaml"), GOOD.replace("orders", "other").replace("spec:", "spek:"))
            .expect("a file");
        eventually("the mistake is reported", Duration::from_secs(10), || {
            mesh.control_plane_log().contains("bad.yaml:4")
        });
        assert_eq!(names(), ["orders"]);
        fs::write(mesh.config().join("bad.yaml"), GOOD.replace("orders", "other")).expect("a file");
        eventually("the mended file is in force", Duration::from_secs(10), || names().len() == 2);
    });
}

#[test]
fn every_apply_is_a_revision_and_one_command_goes_back() {
    in_pods!(every_apply_is_a_revision_and_one_command_goes_back, || {
        let mesh = Mesh::start(weft(), Options::default());
        let apply = |text: &str| {
            let file = mesh.scratch().join("orders.yaml");
            fs::write(&file, text).expect("a file");
            mesh.weft_ok(&["apply", "-f", file.to_str().expect("a path")]);
        };
        apply(GOOD);
        let first = mesh.weft_json(&["history"])[0]["revision"].as_u64().expect("a revision");
        apply(&GOOD.replace("port: 80,", "port: 81,"));
        let history = mesh.weft_json(&["history"]);
        assert_eq!(history[0]["revision"], first + 1);
        for field in ["revision", "time", "author", "source", "summary"] {
            assert!(!history[0][field].is_null(), "{field}: {history}");
        }
        let port = || mesh.weft_json(&["get", "service", "orders"])[0]["spec"]["ports"][0]["port"].as_u64();
        assert_eq!(port(), Some(81));
        let second = (first + 1).to_string();
        let diff = mesh.weft(&["diff", &second]);
        let shown = String::from_utf8_lossy(&diff.stdout).into_owned();
        assert_eq!(diff.status.code(), Some(1), "something differs: {shown}");
        assert!(shown.contains(&format!("+++ revision {second}: default/service/orders")), "{shown}");
        assert!(shown.lines().any(|line| line.starts_with('+') && line.contains("port: 81")), "{shown}");
        let late = mesh.weft(&["rollback", &first.to_string(), "--if-revision", &first.to_string()]);
        let said = String::from_utf8_lossy(&late.stderr).into_owned();
        assert_eq!(late.status.code(), Some(1), "{said}");
        assert!(said.contains(&format!("weft diff {second}")), "{said}");
        mesh.weft_ok(&["rollback", &first.to_string(), "--if-revision", &second, "--wait"]);
        assert_eq!(port(), Some(80));
        assert_eq!(mesh.weft_json(&["history"])[0]["revision"], first + 2);
        mesh.weft_ok(&["delete", "service", "orders"]);
        assert_eq!(mesh.weft(&["get", "service", "orders"]).status.code(), Some(1));
    });
}

/// A fault that answers the requests to orders with this header with a status.
fn fault(name: &str, header: &str, status: u16) -> String {
    format!(
        "apiVersion: weft.mesh/v1alpha1\nkind: FaultInjection\nmetadata: {{name: {name}}}\nspec:\n  targetRef: {{kind: Service, name: orders}}\n  match: {{headers: [{{name: {header}, value: \"1\"}}]}}\n  abort: {{status: {status}}}\n"
    )
}

/// Asks until requests with this header are answered so; how long that took.
fn until(client: &SidecarPod, to: SocketAddr, header: &str, status: u16) -> Duration {
    client.run(|| {
        let mut connection = HttpClient::connect(to).expect("a connection");
        let begun = Instant::now();
        let fields = format!("{header}: 1\r\n");
        while connection.get("orders:8080", "/", &fields).expect("no request fails").status != status {
            assert!(begun.elapsed() < Duration::from_secs(20), "{status} is not in force");
        }
        begun.elapsed()
    })
}

#[test]
fn a_change_of_the_watched_folder_is_in_force_at_once_and_a_swap_is_one() {
    in_pods!(a_change_of_the_watched_folder_is_in_force_at_once_and_a_swap_is_one alone, || {
        let mesh = Mesh::start(weft(), Options::default());
        let (_pod, _app) = server(&mesh, "one", "");
        let client = client(&mesh, "");
        let orders = orders(&mesh, &client);
        let mut took: Vec<_> = (0..7)
            .map(|number| {
                let status = 411 + number;
                fs::write(mesh.config().join("fault.yaml"), fault("one", "x-one", status)).expect("a file");
                until(&client, orders, "x-one", status)
            })
            .collect();
        took.sort_unstable();
        println!("from the file's end to the first answer: {took:?}");
        assert!(took[3] <= Duration::from_millis(100), "{took:?}");

        // As a kubelet lays a ConfigMap out, and changes it: by renaming one link.
        let folder = mesh.config().join("map");
        let revision = |number: u16| {
            let version = folder.join(format!("..{number}"));
            fs::create_dir_all(&version).expect("a folder");
            fs::write(version.join("a.yaml"), fault("a", "x-a", 430 + number)).expect("a file");
            fs::write(version.join("b.yaml"), fault("b", "x-b", 440 + number)).expect("a file");
            symlink(format!("..{number}"), folder.join("..new")).expect("a link");
            fs::rename(folder.join("..new"), folder.join("..data")).expect("a swap");
        };
        revision(0);
        for name in ["a.yaml", "b.yaml"] {
            symlink(format!("..data/{name}"), folder.join(name)).expect("a link");
        }
        until(&client, orders, "x-b", 440);
        until(&client, orders, "x-a", 430);
        let revisions = || mesh.weft_json(&["history"]).as_array().map(Vec::len).unwrap_or_default();
        let before = revisions();
        for number in 1..4 {
            revision(number);
            until(&client, orders, "x-a", 430 + number);
            until(&client, orders, "x-b", 440 + number);
            fs::remove_dir_all(folder.join(format!("..{}", number - 1))).expect("the old one");
        }
        assert_eq!(revisions(), before + 3, "{}", mesh.weft_json(&["history"]));

        // What was waited for holds for the very next request, and a dry run has said for whom.
        let file = mesh.scratch().join("waited.yaml");
        fs::write(&file, fault("waited", "x-waited", 450)).expect("a file");
        let file = file.to_str().expect("a path");
        let tried = mesh.weft_ok(&["apply", "-f", file, "--dry-run"]);
        assert!(tried.contains("1 sidecar would be told of it: default/"), "{tried}");
        mesh.weft_ok(&["apply", "-f", file, "--wait"]);
        let answer = client.run(|| {
            let mut connection = HttpClient::connect(orders).expect("a connection");
            connection.get("orders:8080", "/", "x-waited: 1\r\n").expect("an answer").status
        });
        assert_eq!(answer, 450);
    });
}
