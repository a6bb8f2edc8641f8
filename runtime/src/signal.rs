//! The signals that end a process in good order.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Hears SIGTERM and SIGINT from its creation on.
#[derive(Debug)]
pub struct Shutdown {
    terminate: Signal,
    interrupt: Signal,
}

/// Starts to listen for SIGTERM and SIGINT, which from now on no longer end the process by themselves.
pub fn shutdown() -> io::Result<Shutdown> {
    Ok(Shutdown { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
}

impl Shutdown {
    /// Waits for the next of the two and names it. The first asks for a drain; a second one is impatience.
    pub async fn received(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::{Signal, getpid, kill_process};

    #[tokio::test]
    async fn both_signals_are_heard_again_and_again() {
        let mut shutdown = super::shutdown().unwrap();
        for (signal, name) in [(Signal::TERM, "SIGTERM"), (Signal::INT, "SIGINT"), (Signal::TERM, "SIGTERM")]
        {
            kill_process(getpid(), signal).unwrap();
            assert_eq!(shutdown.received().await, name);
        }
    }
}
