//! What can go wrong with a pod, saying what was attempted.

use std::borrow::Cow;
use std::io;

use netlink_packet_core::DecodeError;

/// The result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the kernel did not do what a pod needs.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error("cannot {attempt}")]
    System {
        /// What was tried, as it reads after "cannot".
        attempt: Cow<'static, str>,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel refused a request and said why in words.
    #[error("cannot {attempt} ({reason})")]
    Refused {
        /// What was tried, as it reads after "cannot".
        attempt: Cow<'static, str>,
        /// The kernel's own words.
        reason: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel's answer could not be read.
    #[error("cannot {attempt}: the kernel's answer is not understood")]
    Answer {
        /// What was tried, as it reads after "cannot".
        attempt: Cow<'static, str>,
        /// What is wrong with the answer.
        source: DecodeError,
    },
    /// The namespaces that an ordinary user needs are switched off.
    #[error("this machine does not let an ordinary user make namespaces: {reason}; {remedy}")]
    Forbidden {
        /// Which of the kernel's settings forbids it.
        reason: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// A user namespace can only be entered by a process with a single thread.
    #[error("cannot enter a user namespace: the process has {threads} threads already, and may have one")]
    Threads {
        /// How many there are.
        threads: usize,
    },
    /// The hub has no address left.
    #[error("cannot add another pod: all {limit} addresses of the hub are taken")]
    Full {
        /// How many pods a hub can hold.
        limit: u16,
    },
    /// The namespace to join is not a hub.
    #[error("cannot join {path}: that network namespace has no bridge {bridge}", bridge = crate::hub::BRIDGE)]
    NoHub {
        /// What was to be joined.
        path: String,
    },
    /// A list of an interception rule is too long.
    #[error("cannot intercept: {list} has {len} entries, at most {limit} are possible")]
    TooLong {
        /// The list's name.
        list: &'static str,
        /// How long it is.
        len: usize,
        /// How long it may be.
        limit: usize,
    },
}

impl Error {
    /// The kernel's error, where it was the kernel that refused.
    #[must_use]
    pub fn kind(&self) -> Option<io::ErrorKind> {
        self.os().map(io::Error::kind)
    }

    pub(crate) fn os(&self) -> Option<&io::Error> {
        match self {
            Self::System { source, .. } | Self::Refused { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// Says what was attempted when a system call fails.
pub(crate) trait Attempt<T> {
    fn attempt(self, what: impl Into<Cow<'static, str>>) -> Result<T>;
}

impl<T, E: Into<io::Error>> Attempt<T> for Result<T, E> {
    fn attempt(self, what: impl Into<Cow<'static, str>>) -> Result<T> {
        self.map_err(|error| Error::System { attempt: what.into(), source: error.into() })
    }
}
