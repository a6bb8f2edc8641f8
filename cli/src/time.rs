//! Times and durations as people read them.

use jiff::{SignedDuration, Timestamp};

/// How far off a time is: `in 23h 10m`, `4m 2s ago`; `-` for none.
pub(crate) fn until(time: &str) -> String {
    match time.parse::<Timestamp>() {
        Ok(time) => between(Timestamp::now(), time),
        Err(_) if time.is_empty() => "-".to_owned(),
        Err(_) => time.to_owned(),
    }
}

fn between(now: Timestamp, time: Timestamp) -> String {
    let ahead = now.duration_until(time);
    if ahead.is_negative() { format!("{} ago", length(-ahead)) } else { format!("in {}", length(ahead)) }
}

/// The two largest units of a length of time.
fn length(duration: SignedDuration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, seconds) => format!("{seconds}s"),
        (0, 0, minutes, seconds) => format!("{minutes}m {seconds}s"),
        (0, hours, minutes, _) => format!("{hours}h {minutes}m"),
        (days, hours, _, _) => format!("{days}d {hours}h"),
    }
}

/// Milliseconds with as many digits as matter: `0.42ms`, `17ms`, `2.5s`.
pub(crate) fn milliseconds(value: f64) -> String {
    match value {
        value if value < 1.0 => format!("{value:.2}ms"),
        value if value < 10.0 => format!("{value:.1}ms"),
        value if value < 1000.0 => format!("{value:.0}ms"),
        value => format!("{:.1}s", value / 1000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_between(seconds: i64, expected: &str) {
        let now: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        assert_eq!(between(now, now + SignedDuration::from_secs(seconds)), expected);
    }

    #[test]
    fn times_are_told_from_now() {
        check_between(0, "in 0s");
        check_between(59, "in 59s");
        check_between(-242, "4m 2s ago");
        check_between(86_399, "in 23h 59m");
        check_between(2 * 86_400 + 3600, "in 2d 1h");
        assert_eq!(until(""), "-");
        assert_eq!(until("never"), "never");
    }

    #[test]
    fn milliseconds_have_the_digits_that_matter() {
        let shown = [0.0, 0.418, 1.25, 17.4, 999.4, 2500.0].map(milliseconds);
        assert_eq!(shown, ["0.00ms", "0.42ms", "1.2ms", "17ms", "999ms", "2.5s"]);
    }
}
