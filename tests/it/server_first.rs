//! A server that speaks first costs nothing and needs no setting: real databases and others behind a sidecar.

use std::fs;
use std::path::Path;
use std::process::Command;

use weft_tests::{program, skip};

use crate::in_pods;
use crate::stores::{Store, is_root, without_rights};

#[test]
fn mariadb_greets_its_client_as_fast_as_without_sidecars() {
    in_pods!(mariadb_greets_its_client_as_fast_as_without_sidecars alone, || {
        let (Some(server), Some(install)) =
            (program(&["mariadbd"]), program(&["mariadb-install-db", "mysql_install_db"]))
        else {
            return;
        };
        let store = Store::new();
        let data = store.data();
        let mut prepare = Command::new(install);
        prepare.args(["--no-defaults", "--skip-test-db", "--auth-root-authentication-method=normal"]);
        prepare.arg(format!("--datadir={}", data.display()));
        succeed(prepare);
        let mut command = Command::new(server);
        command.args(["--no-defaults", "--bind-address=*", "--port=3306", "--skip-grant-tables"]);
        command.args(["--skip-name-resolve", "--max-allowed-packet=16M"]);
        command.arg(format!("--datadir={}", data.display())).arg(format!("--socket={}/s", data.display()));
        let _server = store.start(command);
        store.prove("mariadb.py");
    });
}

#[test]
fn postgresql_answers_its_client_as_fast_as_without_sidecars() {
    in_pods!(postgresql_answers_its_client_as_fast_as_without_sidecars alone, || {
        let (Some(server), Some(init)) = (program(&["postgres"]), program(&["initdb"])) else { return };
        let store = Store::new();
        let data = store.data();
        let mut prepare = Command::new(init);
        prepare.args(["-A", "trust", "-U", "postgres", "-N", "-D"]).arg(&data);
        succeed(prepare);
        fs::write(data.join("pg_hba.conf"), "host all all all trust\n").expect("the access rules");
        let mut command = Command::new(server);
        command
            .args(["-c", "listen_addresses=*", "-c", "unix_socket_directories=", "-c", "fsync=off", "-D"])
            .arg(&data);
        let _server = store.start(command);
        store.prove("postgresql.py");
    });
}

#[test]
fn nats_serves_news_requests_and_queue_groups() {
    in_pods!(nats_serves_news_requests_and_queue_groups alone, || {
        let Some(server) = program(&["nats-server"]) else { return };
        let store = Store::new();
        let _server = store.start(Command::new(server));
        store.prove("nats_client.py");
    });
}

#[test]
fn postfix_greets_takes_large_letters_and_delivers_them() {
    in_pods!(postfix_greets_takes_large_letters_and_delivers_them alone, || {
        let (Some(server), Some(_)) = (program(&["postfix"]), weft_tests::python("smtp.py")) else { return };
        if !is_root() {
            return skip("postfix's master is started by root only");
        }
        let store = Store::new();
        let folder = store.peers.mesh.scratch().join("postfix");
        configure_postfix(&folder);
        let mut command = Command::new(server);
        command.arg("-c").arg(&folder).arg("start-fg");
        let _server = store.peers.server.app(command);
        store.prove("smtp.py");
        // Ten letters from each of two clients, each with an attachment of half a megabyte in base64.
        let inbox = folder.join("mail/you/new");
        weft_tests::eventually("the letters are delivered", std::time::Duration::from_secs(30), || {
            let letters = fs::read_dir(&inbox).into_iter().flatten().flatten();
            let sizes: Vec<u64> = letters.filter_map(|letter| Some(letter.metadata().ok()?.len())).collect();
            sizes.len() == 20 && sizes.iter().all(|size| *size > 700_000)
        });
    });
}

/// A Postfix of its own folder that delivers for `weft.test` and relays for nobody.
fn configure_postfix(folder: &Path) {
    for part in ["", "queue", "data", "mail"] {
        fs::create_dir(folder.join(part)).expect("a folder");
    }
    let user = fs::read_to_string("/etc/passwd").expect("the users");
    let user = user.lines().find_map(|line| line.strip_prefix("postfix:x:")?.split(':').next()?.parse().ok());
    std::os::unix::fs::chown(folder.join("data"), user, None).expect("Postfix's own folder");
    std::os::unix::fs::chown(folder.join("mail"), Some(65534), Some(65534)).expect("the letters' folder");
    let at = folder.display();
    let main = format!(
        "compatibility_level = 3.6
queue_directory = {at}/queue
data_directory = {at}/data
maillog_file = /dev/stdout
mynetworks =
myhostname = store.weft.test
mydestination =
smtpd_relay_restrictions = reject_unauth_destination
smtpd_peername_lookup = no
alias_maps =
virtual_mailbox_domains = weft.test
virtual_mailbox_base = {at}/mail
virtual_mailbox_maps = static:you/
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
"
    );
    fs::write(folder.join("main.cf"), main).expect("settings");
    let services = [
        "smtp inet n - n - - smtpd",
        "cleanup unix n - n - 0 cleanup",
        "qmgr unix n - n 300 1 qmgr",
        "rewrite unix - - n - - trivial-rewrite",
        "bounce unix - - n - 0 bounce",
        "defer unix - - n - 0 bounce",
        "trace unix - - n - 0 bounce",
        "proxymap unix - - n - - proxymap",
        "anvil unix - - n - 1 anvil",
        "virtual unix - n n - - virtual",
        "error unix - - n - - error",
        "retry unix - - n - - error",
        "postlog unix-dgram n - n - 1 postlogd",
    ];
    fs::write(folder.join("master.cf"), services.join("\n") + "\n").expect("settings");
}

fn succeed(prepare: Command) {
    let output = without_rights(prepare).output().expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
