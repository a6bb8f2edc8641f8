//! Logs on stderr, for people or for machines, at a level that can be changed while the process runs.

use std::collections::HashMap;
use std::fmt;
use std::io::{IsTerminal as _, stderr};
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::{Event, Level, Metadata};
use tracing_subscriber::filter::{ParseError, Targets};
use tracing_subscriber::layer::{Context, Filter, SubscriberExt as _};
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};
use tracing_subscriber::{Layer as _, Registry, reload};

/// Lines that one place in the program may write within a window.
const LINES: u32 = 50;
const WINDOW: Duration = Duration::from_secs(10);

static SUPPRESSED: AtomicU64 = AtomicU64::new(0);

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Changes the level of a running process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LogLevel(reload::Handle<Targets, Registry>);

/// Why logs cannot be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The text is no list of levels.
    #[error("{0:?} is no log level; give one as in warn or info,weft_proxy=debug")]
    Level(String, #[source] ParseError),
    /// The format has another name.
    #[error("{0:?} is no log format; there are text and json")]
    Format(String),
    /// Logs go somewhere already.
    #[error("logs are set up already")]
    Installed(#[source] TryInitError),
    /// What wrote the logs is gone.
    #[error("logs are no longer written")]
    Gone(#[source] reload::Error),
}

/// Sets logs up for the process, once, at the level that `level` says in `RUST_LOG` syntax. Panics are logged too.
pub fn init(format: LogFormat, level: &str) -> Result<LogLevel, LogError> {
    let (filter, handle) = reload::Layer::new(parse(level)?);
    let lines = tracing_subscriber::fmt::layer().with_writer(stderr);
    let lines = match format {
        LogFormat::Text => lines.with_ansi(colours()).boxed(),
        LogFormat::Json => {
            lines.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
        }
    };
    let lines = lines.with_filter(Moderation::default());
    tracing_subscriber::registry().with(filter).with(lines).try_init().map_err(LogError::Installed)?;
    std::panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(location, panic = panic.payload_as_str().unwrap_or("?"), "panic");
    }));
    Ok(LogLevel(handle))
}

/// Lines that were not written because the same place in the program had written so many just before.
pub fn suppressed() -> u64 {
    SUPPRESSED.load(Relaxed)
}

/// Lets no single place in the program fill the log: what goes wrong a thousand times is said a few times. Who has asked for
/// debug lines gets them all.
#[derive(Debug, Default)]
struct Moderation(Mutex<HashMap<Identifier, (Instant, u32)>>);

impl Moderation {
    fn admits(&self, place: Identifier, now: Instant) -> bool {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (begun, lines) = places.entry(place).or_insert((now, 0));
        if now.saturating_duration_since(*begun) >= WINDOW {
            (*begun, *lines) = (now, 0);
        }
        *lines = lines.saturating_add(1);
        *lines <= LINES
    }
}

impl<S> Filter<S> for Moderation {
    fn enabled(&self, _metadata: &Metadata<'_>, _context: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _context: &Context<'_, S>) -> bool {
        let metadata = event.metadata();
        let admitted = *metadata.level() > Level::INFO || self.admits(metadata.callsite(), Instant::now());
        if !admitted {
            SUPPRESSED.fetch_add(1, Relaxed);
        }
        admitted
    }
}

impl LogLevel {
    /// Sets another level, in `RUST_LOG` syntax. A text that is none changes nothing.
    pub fn set(&self, level: &str) -> Result<(), LogError> {
        self.0.reload(parse(level)?).map_err(LogError::Gone)
    }
}

impl fmt::Display for LogLevel {
    /// The level in force.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = self.0.with_current(ToString::to_string).unwrap_or_default();
        f.write_str(&level)
    }
}

impl FromStr for LogFormat {
    type Err = LogError;

    fn from_str(text: &str) -> Result<Self, LogError> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(LogError::Format(other.into())),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

fn parse(level: &str) -> Result<Targets, LogError> {
    level.trim().parse().map_err(|e| LogError::Level(level.trim().into(), e))
}

/// <https://no-color.org>: any value that is not empty turns colours off.
fn colours() -> bool {
    stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

#[cfg(test)]
mod tests {
    use tracing::subscriber::Interest;

    use super::*;

    /// Told apart by where they are, so they must take room.
    struct Place(#[expect(dead_code, reason = "takes room")] u8);

    static PLACES: [Place; 2] = [Place(1), Place(2)];

    impl tracing::callsite::Callsite for Place {
        fn set_interest(&self, _interest: Interest) {}

        fn metadata(&self) -> &Metadata<'_> {
            panic!("nobody asks")
        }
    }

    #[test]
    fn one_place_may_write_so_many_lines_and_then_waits() {
        let moderation = Moderation::default();
        let (place, another) = (Identifier(&PLACES[0]), Identifier(&PLACES[1]));
        let now = Instant::now();
        let admitted = (0..1000).filter(|_| moderation.admits(place.clone(), now)).count();
        assert_eq!(admitted, usize::try_from(LINES).unwrap());
        assert!(moderation.admits(another, now), "others are not silenced with it");
        assert!(moderation.admits(place, now + WINDOW));
    }
}
