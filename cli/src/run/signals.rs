//! Signals on their way to the program.

use std::fs::File;
use std::io;

use rustix::process::{Signal, getpgrp};
use rustix::termios::tcgetpgrp;
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

/// What people and programs send to a program to make it do or end something. Stopping and continuing are left to the
/// kernel: a terminal's job control reaches the program as it reaches us.
#[derive(Debug)]
pub(super) struct Signals {
    terminate: Stream,
    interrupt: Stream,
    quit: Stream,
    hang_up: Stream,
    user1: Stream,
    user2: Stream,
}

impl Signals {
    /// From now on these signals no longer end this process by themselves.
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hang_up: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }

    /// The next signal that the program is to be sent.
    pub(super) async fn next(&mut self) -> Signal {
        loop {
            let received = self.received().await;
            // A terminal sends these to its whole foreground group: the program has it already.
            let from_terminal = matches!(received, Signal::INT | Signal::QUIT) && in_foreground();
            if !from_terminal {
                return received;
            }
        }
    }

    /// The number of a signal that ends us while there is no program yet.
    pub(super) async fn ending(&mut self) -> i32 {
        self.received().await.as_raw()
    }

    async fn received(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::TERM,
            _ = self.interrupt.recv() => Signal::INT,
            _ = self.quit.recv() => Signal::QUIT,
            _ = self.hang_up.recv() => Signal::HUP,
            _ = self.user1.recv() => Signal::USR1,
            _ = self.user2.recv() => Signal::USR2,
        }
    }
}

/// Whether we have a terminal and are in its foreground.
fn in_foreground() -> bool {
    let Ok(terminal) = File::open("/dev/tty") else { return false };
    tcgetpgrp(&terminal).is_ok_and(|group| group == getpgrp())
}
