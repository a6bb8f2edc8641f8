//! `healthcheck`: how it is found out that a program works.

use std::time::Duration;

use super::super::decode::{Field, Object};
use super::super::node::Value;
use super::{Port, texts};

/// How often a program is asked once it works.
const INTERVAL: Duration = Duration::from_secs(10);
/// How often until it works for the first time.
const START_INTERVAL: Duration = Duration::from_millis(250);
/// How long a failure means nothing at first.
const START_PERIOD: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(5);
const RETRIES: u32 = 3;
/// The most failures in a row that may be waited for.
const MAX_RETRIES: u32 = 1000;

const FIELDS: [&str; 9] =
    ["test", "port", "path", "interval", "timeout", "retries", "start_period", "start_interval", "disable"];

/// How it is found out whether a program works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is tried.
    pub probe: Probe,
    /// How often.
    pub interval: Duration,
    /// How often until it works for the first time.
    pub start_interval: Duration,
    /// Until then, and so long, failures do not count.
    pub start_period: Duration,
    /// How long a try may take.
    pub timeout: Duration,
    /// So many failures in a row make it one that does not work.
    pub retries: u32,
}

/// What is tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// A program beside it, which must end with 0.
    Command(Vec<String>),
    /// `GET` of a path, which must be answered with a status below 400.
    Http {
        /// The port it listens on.
        port: u16,
        /// The path.
        path: String,
    },
    /// A connection.
    Connect {
        /// The port it listens on.
        port: u16,
    },
}

/// What is known of a program by its checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Health {
    works: Option<bool>,
    failures: u32,
    worked_once: bool,
}

impl Health {
    /// Hears how a check went, so long after the program was started; whether it works from now on, where that is news.
    pub fn hear(&mut self, check: &HealthCheck, since_start: Duration, good: bool) -> Option<bool> {
        if good {
            (self.failures, self.worked_once) = (0, true);
        } else if self.worked_once || since_start >= check.start_period {
            self.failures = self.failures.saturating_add(1);
        }
        let works = if good {
            true
        } else if self.failures >= check.retries {
            false
        } else {
            return None;
        };
        let news = self.works != Some(works);
        self.works = Some(works);
        news.then_some(works)
    }

    /// How long to wait for the next check.
    pub fn pause(&self, check: &HealthCheck) -> Duration {
        if self.worked_once { check.interval } else { check.start_interval }
    }
}

/// Reads a health check; without one a program works that takes connections at its first port.
pub(super) fn read(field: Option<&Field<'_>>, ports: &[Port]) -> Option<HealthCheck> {
    let first = ports.first().map(|port| port.target);
    let Some(field) = field else { return Some(with(Probe::Connect { port: first? })) };
    let object = field.object(&FIELDS)?;
    if object.field("disable").and_then(|field| field.bool()) == Some(true) {
        return None;
    }
    let probe = probe(field, &object, first)?;
    let duration = |key: &str, default: Duration| {
        object.field(key).and_then(|field| field.duration()).unwrap_or(default)
    };
    let start_period = object.field("start_period").and_then(|field| field.duration_or_none());
    Some(HealthCheck {
        interval: duration("interval", INTERVAL),
        start_interval: duration("start_interval", START_INTERVAL),
        start_period: start_period.unwrap_or(START_PERIOD),
        timeout: duration("timeout", TIMEOUT),
        retries: object.field("retries").and_then(|field| field.integer(1..=MAX_RETRIES)).unwrap_or(RETRIES),
        probe,
    })
}

fn with(probe: Probe) -> HealthCheck {
    HealthCheck {
        probe,
        interval: INTERVAL,
        start_interval: START_INTERVAL,
        start_period: START_PERIOD,
        timeout: TIMEOUT,
        retries: RETRIES,
    }
}

/// None: it asks for none, or cannot be read, which was told.
fn probe(field: &Field<'_>, object: &Object<'_>, first: Option<u16>) -> Option<Probe> {
    let path = object.field("path").and_then(|field| field.text().map(str::to_owned));
    let port = object.field("port");
    if let Some(test) = object.field("test") {
        if path.is_some() || port.is_some() {
            test.mistake("a path or a port is there too", "keep one of them");
        }
        return command(&test);
    }
    let Some(port) = port.and_then(|field| field.port()).or(first) else {
        field.mistake(
            "nothing says what is tried",
            "write test: COMMAND, or port: N and perhaps path: /healthz",
        );
        return None;
    };
    Some(path.map_or(Probe::Connect { port }, |path| Probe::Http { port, path }))
}

/// A text, or a list that begins with `CMD-SHELL`, is the shell's; `NONE` is none.
fn command(field: &Field<'_>) -> Option<Probe> {
    let shell = |text: String| Probe::Command(vec!["/bin/sh".to_owned(), "-c".to_owned(), text]);
    let Value::List(_) = field.node().value else { return field.text().map(|text| shell(text.to_owned())) };
    let mut words = texts(field).into_iter().map(|(_, text)| text);
    let first = words.next();
    let rest: Vec<String> = words.collect();
    match (first.as_deref(), rest.as_slice()) {
        (Some("NONE"), []) => None,
        (Some("CMD"), [_, ..]) => Some(Probe::Command(rest)),
        (Some("CMD-SHELL"), [text]) => Some(shell(text.clone())),
        _ => {
            field.mistake(
                "cannot be read",
                "write [CMD, PROGRAM, ARGUMENT..], [CMD-SHELL, TEXT], [NONE] or a text for the shell",
            );
            None
        }
    }
}
