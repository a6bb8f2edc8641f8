//! Levels that change while the process runs. Logs belong to the whole process, so this is one test.

use tracing::Level;
use weft_runtime::logs::{self, LogError, LogFormat};

#[test]
fn the_level_follows_what_is_asked_for() {
    let level = logs::init(LogFormat::Json, "warn,it=debug").unwrap();
    assert_eq!(level.to_string(), "it=debug,warn");
    assert!(tracing::enabled!(Level::DEBUG) && !tracing::enabled!(target: "other", Level::INFO));

    level.set(" error ").unwrap();
    assert!(!tracing::enabled!(Level::WARN) && tracing::enabled!(Level::ERROR));

    for bad in ["it=loud", "it=debug=warn", "it[{field=debug"] {
        let error = level.set(bad).unwrap_err();
        assert!(matches!(&error, LogError::Level(text, _) if text == bad), "{error}");
    }
    assert_eq!(level.to_string(), "error");

    assert!(matches!(logs::init(LogFormat::Text, "info"), Err(LogError::Installed(_))));
}

#[test]
fn formats_are_read_and_written_by_name() {
    for format in [LogFormat::Text, LogFormat::Json] {
        assert_eq!(format.to_string().parse::<LogFormat>().unwrap(), format);
    }
    assert_eq!(
        "xml".parse::<LogFormat>().unwrap_err().to_string(),
        "\"xml\" is no log format; there are text and json"
    );
}
