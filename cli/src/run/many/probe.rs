//! Whether a program works, asked from within its pod.

use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::time::{Instant, sleep, timeout};
use weft_core::manifest::apps::{Health, HealthCheck, Probe};

use super::plan::Program;
use crate::http;
use crate::mesh::{Resident, Role};

/// Asks again and again, and tells each change: it works, or why it does not. Never ends.
pub(super) async fn watch(
    check: &HealthCheck,
    program: &Program,
    resident: &Resident,
    mut changed: impl FnMut(Result<Duration, anyhow::Error>),
) {
    let began = Instant::now();
    let mut health = Health::default();
    loop {
        let asked = timeout(check.timeout, ask(&check.probe, program, resident)).await;
        let answer = asked.unwrap_or_else(|_| bail_late(check.timeout));
        match health.hear(check, began.elapsed(), answer.is_ok()) {
            Some(true) => changed(Ok(began.elapsed())),
            Some(false) => changed(Err(answer.err().unwrap_or_else(|| anyhow::anyhow!("it does not work")))),
            None => {}
        }
        sleep(health.pause(check)).await;
    }
}

fn bail_late(patience: Duration) -> anyhow::Result<()> {
    bail!("no answer within {patience:?}")
}

async fn ask(probe: &Probe, program: &Program, resident: &Resident) -> anyhow::Result<()> {
    match probe {
        Probe::Connect { port } => {
            // It may listen on either of them alone.
            if resident.connect(&format!("127.0.0.1:{port}")).await.is_err() {
                resident.connect(&format!("[::1]:{port}")).await?;
            }
            Ok(())
        }
        Probe::Http { port, path } => {
            let (status, _) = http::get(resident, &format!("127.0.0.1:{port}"), path).await?;
            if status < 400 { Ok(()) } else { bail!("{path} was answered with {status}") }
        }
        Probe::Command(words) => {
            let mut command = program.command(words)?;
            command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
            let mut child = resident.spawn(command, Role::Application).await?;
            let status = child.wait().await.context("cannot wait for it")?;
            if status.success() { Ok(()) } else { bail!("its test ended with {status}") }
        }
    }
}
