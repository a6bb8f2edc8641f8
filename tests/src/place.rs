//! Where a test can run: as root, or as an ordinary user in a user namespace; and what it needs to be installed.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

/// What tests of one binary share: its cores. Who measures how long something takes has them alone.
static MACHINE: RwLock<()> = RwLock::new(());

/// With whom a test runs at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Company {
    Others,
    /// What it asserts of short times says nothing where others' programs start meanwhile.
    Nobody,
}

/// Held by a test that others may run beside.
pub fn beside_others() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().unwrap_or_else(PoisonError::into_inner)
}

/// Set in the copy of the test that runs inside a user namespace.
const INSIDE: &str = "WEFT_TEST_INSIDE";

/// Runs `test` where it may make network namespaces. For an ordinary user that is a copy of this test binary inside a
/// user namespace of its own, entered by `weft` (the binary at `weft`) before any thread exists.
pub fn in_pods(weft: &Path, name: &str, company: Company, test: impl FnOnce()) {
    let _beside = (company == Company::Others).then(beside_others);
    let _alone =
        (company == Company::Nobody).then(|| MACHINE.write().unwrap_or_else(PoisonError::into_inner));
    if !weft_pods::userns::needed() || env::var_os(INSIDE).is_some() {
        return test();
    }
    let this = env::current_exe().expect("the test binary");
    let mut command = Command::new(weft);
    command.arg("inside-user-namespace").arg(this).args([
        "--exact",
        name,
        "--nocapture",
        "--test-threads",
        "1",
    ]);
    let output = command.env(INSIDE, "1").output().expect("weft starts");
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if text.contains("the kernel forbids") && !refuses_skips() {
        eprintln!("SKIPPED {name}: {}", text.trim());
        return;
    }
    assert!(output.status.success(), "{name} inside a user namespace:\n{text}");
}

/// The path of an installed program that a test cannot do without; `None`, loudly, when the test is to be skipped.
pub fn program(names: &[&str]) -> Option<PathBuf> {
    // The system's own come first: other users can run them too.
    let mut folders: Vec<PathBuf> = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"].map(PathBuf::from).into();
    folders.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    if let Ok(versions) = std::fs::read_dir("/usr/lib/postgresql") {
        folders.extend(versions.flatten().map(|version| version.path().join("bin")));
    }
    for name in names {
        if let Some(found) = folders.iter().map(|folder| folder.join(name)).find(|path| path.is_file()) {
            return Some(found);
        }
    }
    skip(&format!("none of {names:?} is installed"));
    None
}

/// A run of one of the programs in `tests/programs`, by the Python that has what they import; `None`, loudly, when the test
/// is to be skipped.
pub fn python(script: &str) -> Option<Command> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = tests.parent().expect("the workspace").join("target/python/bin/python3");
    if python.is_file() {
        let mut command = Command::new(python);
        command.args(["-X", "faulthandler", "-B"]).arg(tests.join("programs").join(script));
        return Some(command);
    }
    let how =
        "python3 -m venv target/python && target/python/bin/pip install -r tests/programs/requirements.txt";
    skip(&format!("{} is not there: {how}", python.display()));
    None
}

/// Says that a test is skipped, and why; fails where that is refused.
pub fn skip(why: &str) {
    assert!(!refuses_skips(), "skipping is refused: {why}");
    eprintln!("SKIPPED: {why}");
}

fn refuses_skips() -> bool {
    env::var_os("WEFT_REFUSE_SKIPS").is_some()
}
