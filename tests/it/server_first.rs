//! A server that speaks first costs nothing and needs no setting: real databases behind a sidecar.

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use weft_tests::{Mesh, Options, Process, SidecarPod, eventually, program};

use crate::{in_pods, weft};

/// How much longer a first answer may take through two sidecars than directly.
const AT_MOST_ADDED: Duration = Duration::from_millis(20);

#[test]
fn mariadb_greets_its_client_as_fast_as_without_sidecars() {
    in_pods!(mariadb_greets_its_client_as_fast_as_without_sidecars, || {
        let (Some(server), Some(install), Some(client)) = (
            program(&["mariadbd"]),
            program(&["mariadb-install-db", "mysql_install_db"]),
            program(&["mariadb", "mysql"]),
        ) else {
            return;
        };
        let (mesh, database, shell) = mesh_with_a_database();
        let data = data_folder(&mesh);
        let mut prepare = Command::new(install);
        prepare.args(["--no-defaults", "--skip-test-db", "--auth-root-authentication-method=normal"]);
        prepare.arg(format!("--datadir={}", data.display()));
        let prepared = as_database_user(prepare).output().expect("it starts");
        assert!(prepared.status.success(), "{}", String::from_utf8_lossy(&prepared.stderr));
        let mut command = Command::new(server);
        command.args([
            "--no-defaults",
            "--bind-address=*",
            "--port=3306",
            "--skip-grant-tables",
            "--skip-name-resolve",
        ]);
        command.arg(format!("--datadir={}", data.display())).arg(format!("--socket={}/s", data.display()));
        let _server: Process = database.app(as_database_user(command));
        let ask = |pod: &SidecarPod, host: &str| {
            let mut command = Command::new(&client);
            command.args([
                "--no-defaults",
                "-h",
                host,
                "-P",
                "3306",
                "-u",
                "root",
                "-N",
                "-e",
                "select 6 * 7",
            ]);
            answer(pod, command)
        };
        compare(&database, &shell, ask);
    });
}

#[test]
fn postgresql_answers_its_client_as_fast_as_without_sidecars() {
    in_pods!(postgresql_answers_its_client_as_fast_as_without_sidecars, || {
        let (Some(server), Some(init), Some(client)) =
            (program(&["postgres"]), program(&["initdb"]), program(&["psql"]))
        else {
            return;
        };
        let (mesh, database, shell) = mesh_with_a_database();
        let data = data_folder(&mesh);
        let mut prepare = Command::new(init);
        prepare.args(["-A", "trust", "-U", "postgres", "-N", "-D"]).arg(&data);
        let prepared = as_database_user(prepare).output().expect("it starts");
        assert!(prepared.status.success(), "{}", String::from_utf8_lossy(&prepared.stderr));
        let rule = "host all all all trust\n";
        fs::write(data.join("pg_hba.conf"), rule).expect("the access rules");
        let mut command = Command::new(server);
        command
            .args(["-c", "listen_addresses=*", "-c", "unix_socket_directories=", "-c", "fsync=off", "-D"])
            .arg(&data);
        let _server: Process = database.app(as_database_user(command));
        let ask = |pod: &SidecarPod, host: &str| {
            let mut command = Command::new(&client);
            command.args(["-h", host, "-U", "postgres", "-d", "postgres", "-Atc", "select 6 * 7"]);
            command.env("PGCONNECT_TIMEOUT", "10");
            answer(pod, command)
        };
        compare(&database, &shell, ask);
    });
}

/// The database's workload offers a name and not one port: none is configured anywhere.
fn mesh_with_a_database() -> (Mesh, SidecarPod, SidecarPod) {
    let mesh = Mesh::start(weft(), Options::default());
    let (database, shell) = (mesh.pod("database", "database"), mesh.pod("shell", ""));
    (mesh, database, shell)
}

/// The best of several tries, directly (over the database's own loopback) and through two sidecars.
fn compare(
    database: &SidecarPod,
    shell: &SidecarPod,
    ask: impl Fn(&SidecarPod, &str) -> Result<Duration, String>,
) {
    eventually("the database answers", Duration::from_secs(60), || ask(database, "127.0.0.1").is_ok());
    let through =
        || ask(shell, "database").unwrap_or_else(|error| panic!("{error}\n{}", shell.sidecar_log()));
    through();
    let best = |ask: &dyn Fn() -> Duration| (0..7).map(|_| ask()).min().expect("seven tries");
    let direct = best(&|| ask(database, "127.0.0.1").expect("an answer"));
    let meshed = best(&through);
    assert!(meshed < direct + AT_MOST_ADDED, "direct {direct:?}, through the mesh {meshed:?}");
    let mutual = shell.metric("weft_connections_total", &["direction=\"outbound\"", "protocol=\"tcp\""]);
    assert!(mutual >= 8.0, "they went through the sidecars: {mutual}");
}

fn answer(pod: &SidecarPod, command: Command) -> Result<Duration, String> {
    let started = Instant::now();
    let output = pod.output(command);
    let took = started.elapsed();
    if output.stdout.trim_ascii() == b"42" {
        Ok(took)
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into())
    }
}

fn data_folder(mesh: &Mesh) -> std::path::PathBuf {
    let data = mesh.scratch().join("database");
    fs::create_dir(&data).expect("a folder");
    if is_root() {
        chown(&data, Some(NOBODY), Some(NOBODY)).expect("the database's own folder");
    }
    data
}

/// The databases refuse to run as root.
fn as_database_user(mut command: Command) -> Command {
    use std::os::unix::process::CommandExt as _;
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command.current_dir(Path::new("/"));
    command
}

const NOBODY: u32 = 65534;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
