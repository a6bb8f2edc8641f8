//! Logs on stderr, for people or for machines, at a level that can be changed while the process runs.

use std::fmt;
use std::io::{IsTerminal as _, stderr};
use std::str::FromStr;

use tracing_subscriber::filter::{ParseError, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};
use tracing_subscriber::{Layer as _, Registry, reload};

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
    tracing_subscriber::registry().with(filter).with(lines).try_init().map_err(LogError::Installed)?;
    std::panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(location, panic = panic.payload_as_str().unwrap_or("?"), "panic");
    }));
    Ok(LogLevel(handle))
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
