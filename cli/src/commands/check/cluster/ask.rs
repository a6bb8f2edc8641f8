//! Questions to an API server, by `kubectl`: many at once, none of which outlives who asked.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::process::{Child, Command, Stdio};

use anyhow::anyhow;
use serde_json::Value;

use super::super::Check;
use crate::tether;

pub(super) type Answer = Result<Value, Refusal>;

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Refusal {
    /// There is no such thing.
    Absent,
    Other(String),
}

/// A question on its way. Dropped, it is not asked any more.
#[derive(Debug)]
pub(super) struct Asked(io::Result<Child>);

impl Refusal {
    pub(super) fn check(&self, check: &'static str, hint: &str) -> Vec<Check> {
        vec![Check::failed(check, &anyhow!("{}", self.said()), hint)]
    }

    pub(super) fn said(&self) -> &str {
        match self {
            Self::Absent => "is not there",
            Self::Other(said) => said,
        }
    }
}

impl Asked {
    /// Asks for what is at this path.
    pub(super) fn get(path: &str) -> Self {
        Self(kubectl(&["get", "--raw", path], Stdio::null()))
    }

    /// Sends this there.
    pub(super) fn post(path: &str, what: &Value) -> Self {
        Self(written(what).and_then(|body| kubectl(&["create", "--raw", path, "-f", "-"], body.into())))
    }

    /// Waits for the answer.
    pub(super) fn answer(mut self) -> Answer {
        let other = |error: &io::Error| Refusal::Other(format!("kubectl: {error}"));
        let child = self.0.as_mut().map_err(|error| other(error))?;
        let (mut out, mut err) = (Vec::new(), String::new());
        // It says little on standard error, so that neither waits for the other.
        let read = (|| {
            child.stdout.take().map(|mut stdout| stdout.read_to_end(&mut out)).transpose()?;
            child.stderr.take().map(|mut stderr| stderr.read_to_string(&mut err)).transpose()?;
            child.wait()
        })();
        if read.map_err(|error| other(&error))?.success() {
            return serde_json::from_slice(&out)
                .map_err(|_| Refusal::Other("kubectl's answer is no JSON".to_owned()));
        }
        if err.contains("NotFound") || err.contains("could not find the requested resource") {
            return Err(Refusal::Absent);
        }
        Err(Refusal::Other(err.lines().last().unwrap_or("kubectl failed").trim().to_owned()))
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if let Ok(child) = &mut self.0 {
            // One that has ended needs neither.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn kubectl(arguments: &[&str], body: Stdio) -> io::Result<Child> {
    let mut command: Command = tether::command("kubectl").into_std();
    command.arg("--request-timeout=10s").args(arguments);
    command.stdin(body).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
}

/// A file without a name with this in it.
fn written(what: &Value) -> io::Result<File> {
    let mut file = tempfile::tempfile()?;
    file.write_all(what.to_string().as_bytes())?;
    file.rewind()?;
    Ok(file)
}
