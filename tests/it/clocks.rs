//! Clocks that are set far ahead and put right again: what is open goes on, nothing goes out unprotected, everybody finds back.
//!
//! libfaketime gives each program a clock that a file sets; the clock that only counts is left alone, as it is on a machine
//! whose time is set.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use weft_tests::{App, HttpClient, Mesh, Options, SidecarPod, eventually, program};

use crate::{in_pods, weft};

/// A look at the clock every 15 s, and a renewal.
const BACK: Duration = Duration::from_secs(60);

/// A clock of one program.
struct Clock {
    file: PathBuf,
    library: PathBuf,
}

impl Clock {
    fn new(folder: &Path, name: &str, library: &Path) -> Self {
        let clock = Self { file: folder.join(name), library: library.to_owned() };
        clock.set("+0");
        clock
    }

    /// Sets it, as libfaketime says it. At once or not at all: it is read all the while.
    fn set(&self, ahead: &str) {
        let next = self.file.with_extension("next");
        fs::write(&next, ahead).expect("a clock");
        fs::rename(next, &self.file).expect("a clock");
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("LD_PRELOAD", self.library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.display().to_string()),
            ("FAKETIME_CACHE_DURATION", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("NO_FAKE_STAT", "1".to_owned()),
        ]
    }
}

/// What makes clocks settable, which comes with the program.
fn library() -> Option<PathBuf> {
    program(&["faketime"])?;
    let folders = fs::read_dir("/usr/lib").expect("libraries").flatten();
    folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1")).find(|library| library.is_file())
}

/// What a new connection of the client's is answered; none: nothing.
fn ask(client: &SidecarPod, server: &SidecarPod) -> Option<u16> {
    client.run(|| {
        let mut fresh = HttpClient::connect((server.address(), 8080)).ok()?;
        Some(fresh.get("server", "/", "").ok()?.status)
    })
}

#[test]
fn a_year_ahead_and_back_costs_a_control_plane_nobody_and_a_sidecar_only_new_connections() {
    in_pods!(a_year_ahead_and_back_costs_a_control_plane_nobody_and_a_sidecar_only_new_connections, || {
        let Some(library) = library() else { return };
        let readable = fs::Permissions::from_mode(0o755);
        let folder = tempfile::Builder::new().permissions(readable).tempdir().expect("a folder");
        let (ours, theirs) = (
            Clock::new(folder.path(), "control-plane", &library),
            Clock::new(folder.path(), "client", &library),
        );
        let options = Options { environment: ours.environment(), ..Options::default() };
        let mesh = Mesh::start(weft(), options);
        let server = mesh.pod("server", "server:8080");
        let token = mesh.weft_ok(&["token", "create", "--service-account", "client"]);
        let theirs_said = theirs.environment();
        let settings: Vec<_> = theirs_said.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let client = mesh.pod_with_token("client", "", &token, &settings);
        let _app = App::echo(&server, 8080);
        assert_eq!(ask(&client, &server), Some(200));

        let renewals = || mesh.control_plane_log().matches("renewed the issuing certificate").count();
        ours.set("+400d");
        eventually("the authority believes it", BACK, || renewals() == 1);
        assert_eq!(ask(&client, &server), Some(200), "the control plane's clock is nobody else's");
        ours.set("+0");
        eventually("the authority has what holds today", BACK, || renewals() == 2);
        assert_eq!(ask(&client, &server), Some(200));
        let late = mesh.pod("late", "late:8080");
        let _app = App::echo(&late, 8080);
        assert_eq!(ask(&late, &server), Some(200), "who joins afterwards");

        theirs.set("+400d");
        let complaint = "there is no valid certificate";
        eventually("the sidecar believes it", BACK, || client.sidecar_log().contains(complaint));
        let refused = ask(&client, &late);
        assert!(
            refused.is_none_or(|status| status >= 500),
            "whose certificate ended a year ago: {refused:?}"
        );
        theirs.set("+0");
        eventually("it believes others again", BACK, || ask(&client, &late) == Some(200));
        eventually("the sidecars are in sync", BACK, || {
            let status = mesh.weft_json(&["status"]);
            let all = status.as_array().cloned().unwrap_or_default();
            all.len() == 3 && all.iter().all(|sidecar| sidecar["in_sync"] == true)
        });
    });
}
