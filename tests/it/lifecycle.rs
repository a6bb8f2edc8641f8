//! What becomes of the others when one of a program, its sidecar and `weft` ends out of turn.

use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Resource, Signal, getrlimit, kill_process};
use weft_pods::Exemption;
use weft_tests::{Process, eventually, program};

use crate::run::{User, processes_of};

const PATIENCE: Duration = Duration::from_secs(60);

/// The numbers of the user's processes whose command line or environment holds this.
fn pids(user: &User, what: &str) -> Vec<Pid> {
    let all = processes_of(user.folder.path());
    let number = |process: &String| process.split(':').next()?.parse::<i32>().ok();
    let holds = |pid: &i32| {
        let part = |part: &str| std::fs::read(format!("/proc/{pid}/{part}")).unwrap_or_default();
        let text = [part("cmdline"), part("environ")].concat();
        String::from_utf8_lossy(&text).replace('\0', " ").contains(what)
    };
    all.iter().filter_map(number).filter(holds).filter_map(Pid::from_raw).collect()
}

/// Asks `http://hello:8000/page.txt` as another member until it is answered well.
fn is_served(user: &User, curl: &str) {
    let url = "http://hello:8000/page.txt";
    let ask = ["--service", "me", "--", curl, "-sS", "--fail", "--max-time", "5", url];
    eventually("the page is served", PATIENCE, || user.output(&ask).stdout == b"woven\n");
}

#[test]
fn a_sidecar_that_is_killed_comes_back_and_its_program_stays() {
    let _beside = weft_tests::beside_others();
    let (Some(python), Some(curl)) = (program(&["python3"]), program(&["curl"])) else { return };
    let (python, curl) = (python.to_str().expect("a path"), curl.to_str().expect("a path"));
    let user = User::new(None);
    std::fs::write(user.folder.path().join("page.txt"), "woven\n").expect("a page");
    let serve = ["--service", "hello", "--port", "8000", "--", python, "-m", "http.server", "8000"];
    let mut server = Process::start(user.run(&serve), &user.folder.path().join("output"), Command::spawn);
    is_served(&user, curl);
    let programs = || pids(&user, &format!("{python} -m http.server 8000"));
    let before = programs();
    let sidecars = pids(&user, "WEFT_WORKLOAD=hello-");
    assert_eq!(sidecars.len(), 1, "{:#?}", processes_of(user.folder.path()));
    kill_process(sidecars[0], Signal::KILL).expect("killed");
    eventually("that is told", PATIENCE, || server.output().contains("it is started once more"));
    is_served(&user, curl);
    assert_eq!(programs(), before);
    assert_ne!(pids(&user, "WEFT_WORKLOAD=hello-"), sidecars);
    assert_eq!(server.terminate().code(), Some(143), "{}", server.output());
    eventually("nothing is left", PATIENCE, || processes_of(user.folder.path()).is_empty());
}

#[test]
fn who_kills_weft_kills_all_that_it_runs() {
    let _beside = weft_tests::beside_others();
    let user = User::new(None);
    let yaml = "services:\n  a: {command: sleep 1000}\n  b: {command: sleep 1001, replicas: 2}\n";
    std::fs::write(user.folder.path().join("weft.yaml"), yaml).expect("a file");
    let mut all =
        Process::start(user.run(&["-f", "weft.yaml"]), &user.folder.path().join("output"), Command::spawn);
    eventually("all run", PATIENCE, || {
        pids(&user, "sleep 1000").len() == 1 && pids(&user, "sleep 1001").len() == 2
    });
    all.kill();
    eventually("nothing is left", PATIENCE, || processes_of(user.folder.path()).is_empty());
}

#[test]
fn the_units_of_a_machine_are_good_systemd_units() {
    let Some(verify) = program(&["systemd-analyze"]) else { return };
    let folder = tempfile::Builder::new().prefix("weft-units-").tempdir().expect("a folder");
    let root = folder.path().to_str().expect("a path");
    let mut write = Command::new(crate::weft());
    // The program named must be there for systemd to be content.
    write.args([
        "systemd",
        "--service",
        "db",
        "--port",
        "5432:tcp",
        "--control-plane",
        "https://mesh.example",
    ]);
    write.args(["--program", "/bin/true", "--into", root]).env_clear();
    let written = write.output().expect("weft starts");
    assert!(written.status.success(), "{}", String::from_utf8_lossy(&written.stderr));
    let settings = std::fs::read_to_string(folder.path().join("etc/weft/sidecar.env")).expect("settings");
    assert!(
        settings.contains("WEFT_CONTROL_PLANE=https://mesh.example:7443\nWEFT_SERVICES=db:5432:tcp\n"),
        "{settings}"
    );
    let units = folder.path().join("etc/systemd/system");
    let mut command = Command::new(verify);
    command
        .arg("verify")
        .args(["weft-sidecar.service", "weft-intercept.service"].map(|unit| units.join(unit)));
    let verified = command.output().expect("it starts");
    let said = [verified.stdout, verified.stderr].concat();
    assert!(verified.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
}

#[test]
fn where_the_process_table_is_full_nothing_is_started_and_it_is_said() {
    let _beside = weft_tests::beside_others();
    let (Some(setpriv), Some(prlimit)) = (program(&["setpriv"]), program(&["prlimit"])) else { return };
    // The kernel does not hold root to it. A user that has nothing else running.
    const NOBODY: &str = "20021";
    for most in ["1", "2", "5", "8", "12", "20", "30"] {
        let user = User::new(Some(20021));
        let run = user.run(&["--service", "a", "--", "/bin/true"]);
        let mut limited = Command::new(&setpriv);
        limited.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]).arg(&prlimit);
        limited.arg(format!("--nproc={most}")).arg(run.get_program()).args(run.get_args());
        limited
            .envs(run.get_envs().filter_map(|(name, value)| Some((name, value?))))
            .current_dir(user.folder.path());
        let output = limited.output().expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{most}: {said}");
        // The first says it where not even the mesh of the machine can be started.
        let told =
            ["weft: cannot start a control plane: Resource temp", "weft: no room for 32 more threads: "];
        assert!(told.iter().any(|told| said.starts_with(told)), "{most}: {said}");
        assert_eq!(processes_of(user.folder.path()), Vec::<String>::new(), "{most}");
    }
}

#[test]
fn where_the_process_table_fills_up_a_sidecar_goes_on() {
    crate::in_pods!(where_the_process_table_fills_up_a_sidecar_goes_on, || {
        let (Some(_), Some(_)) = (program(&["setpriv"]), program(&["prlimit"])) else { return };
        let mut mesh = weft_tests::Mesh::start(crate::weft(), weft_tests::Options::default());
        let servers = ["first", "second", "third"].map(|name| mesh.pod(name, &format!("{name}:8080")));
        let _apps = servers.each_ref().map(|server| weft_tests::App::echo(server, 8080));
        let mut client = mesh.pod("client", "");
        let ask = |client: &weft_tests::SidecarPod, service: &str| {
            client.run(|| {
                weft_tests::HttpClient::connect((service, 8080)).and_then(|mut to| to.get(service, "/", ""))
            })
        };
        let is_served =
            |client: &weft_tests::SidecarPod, service| ask(client, service).expect("an answer").status == 200;
        let kept = |client: &weft_tests::SidecarPod, service: &str| {
            let file = client.cache().join("client-1/state");
            String::from_utf8_lossy(&std::fs::read(file).unwrap_or_default()).contains(service)
        };
        // A newcomer is called when it is known that its app is there.
        eventually("it is served", PATIENCE, || is_served(&client, "first"));
        eventually("it is kept", PATIENCE, || kept(&client, "first"));

        // From here on the kernel gives it no more threads. Its user has more than one.
        limit(&mut client, "1");
        for _ in 0..20 {
            assert!(is_served(&client, "first"), "connections made anew");
        }
        // Whom it has not asked for yet it hears of, and says that this cannot be kept.
        eventually("it is served", PATIENCE, || is_served(&client, "second"));
        let refused = "cannot keep the configuration on disk";
        eventually("that is told", PATIENCE, || client.sidecar_log().contains(refused));
        assert!(!kept(&client, "second"));
        assert_eq!(client.admin("/ready").expect("an answer").0, 200);
        assert_eq!(client.metric("weft_task_panics_total", &[]), 0.0, "{}", client.sidecar_log());
        assert_eq!(client.metric("weft_control_plane_connected", &[]), 1.0);

        // When there is room again all is kept as before: it starts from that.
        let former = getrlimit(Resource::Nproc).current;
        limit(&mut client, &former.map_or_else(|| "unlimited".to_owned(), |most| most.to_string()));
        eventually("it is served", PATIENCE, || is_served(&client, "third"));
        eventually("it is kept", PATIENCE, || kept(&client, "second") && kept(&client, "third"));
        mesh.kill_control_plane();
        assert!(client.sidecar().terminate().success());
        client.start_sidecar();
        client.wait_until_ready();
        assert!(is_served(&client, "second") && is_served(&client, "third"));
    });
}

/// Says how many processes and threads the sidecar's user may have, as this user: others would need a right for that.
fn limit(client: &mut weft_tests::SidecarPod, most: &str) {
    let mut command = Command::new("setpriv");
    if let Exemption::User(id) = Exemption::here() {
        let id = id.to_string();
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]);
    }
    command.args(["prlimit", "--pid", &client.sidecar().id().to_string(), &format!("--nproc={most}:")]);
    let output = command.output().expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_sidecar_that_may_write_nowhere_serves_all_the_same() {
    crate::in_pods!(a_sidecar_that_may_write_nowhere_serves_all_the_same, || {
        let mesh = weft_tests::Mesh::start(crate::weft(), weft_tests::Options::default());
        let server = mesh.pod("server", "server:8080");
        let _app = weft_tests::App::echo(&server, 8080);
        let token = mesh.weft_ok(&["token", "create", "--service-account", "client"]);
        // As /run is where the file system is read-only: nothing can be made there.
        let mut client = mesh.pod_with_token("client", "", &token, &[("WEFT_CACHE_DIR", "/proc/weft")]);
        let ask = |client: &weft_tests::SidecarPod| {
            client.run(|| {
                weft_tests::HttpClient::connect("server:8080").and_then(|mut to| to.get("server", "/", ""))
            })
        };
        assert_eq!(ask(&client).expect("an answer").status, 200);
        // It keeps nothing, so that it joins anew each time.
        assert!(client.sidecar().terminate().success());
        client.start_sidecar();
        client.wait_until_ready();
        assert_eq!(ask(&client).expect("an answer").status, 200);
        assert!(client.sidecar_log().contains("/proc/weft"), "{}", client.sidecar_log());
    });
}
