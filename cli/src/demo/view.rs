//! The live view: a table that is drawn anew each second on a terminal, lines now and then elsewhere.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::load::Outcome;
use super::scrape::Inbound;
use crate::output;
use crate::time::milliseconds;

/// How often there is a table where it is not drawn over the last one.
const PLAIN_INTERVAL: Duration = Duration::from_secs(5);

/// The live view.
#[derive(Debug)]
pub(crate) struct View {
    kind: Kind,
    dashboard: String,
    started: Instant,
    /// When the last view was drawn, and the requests of each service by then.
    last: Option<(Instant, HashMap<&'static str, f64>)>,
    /// Lines to go up before drawing.
    drawn: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Drawn over the last one.
    Live,
    /// One below the other.
    Plain,
    /// Nobody looks.
    None,
}

impl View {
    /// A view of a mesh; `visible` or not.
    pub(crate) fn new(visible: bool, dashboard: &str) -> Self {
        let kind = match (visible, output::is_terminal()) {
            (false, _) => Kind::None,
            (true, true) => Kind::Live,
            (true, false) => Kind::Plain,
        };
        Self { kind, dashboard: dashboard.to_owned(), started: Instant::now(), last: None, drawn: 0 }
    }

    /// Shows the state of the services.
    pub(crate) fn show(
        &mut self,
        services: &[(&'static str, Inbound)],
        load: &Outcome,
    ) -> anyhow::Result<()> {
        let due = self.last.as_ref().is_none_or(|(at, _)| at.elapsed() >= PLAIN_INTERVAL);
        if self.kind == Kind::None || (self.kind == Kind::Plain && !due) {
            return Ok(());
        }
        let now = Instant::now();
        let table = self.table(services, now);
        let text = format!("{}\n\n{table}{}\n", self.headline(load), self.footer(load));
        let text = if self.kind == Kind::Live { fit(&text, output::width()) } else { text };
        let up = if self.drawn > 0 { format!("\u{1b}[{}A\u{1b}[J", self.drawn) } else { String::new() };
        if self.kind == Kind::Live {
            self.drawn = text.lines().count();
        }
        self.last = Some((now, services.iter().map(|(name, inbound)| (*name, inbound.requests)).collect()));
        output::print(&format!("{up}{text}"))
    }

    fn headline(&self, load: &Outcome) -> String {
        format!(
            "weft demo, {}s: {} requests, {} succeeded, p50 {}, p99 {}",
            self.started.elapsed().as_secs(),
            load.requests(),
            percent(if load.requests() == 0 { 1.0 } else { load.success_rate() }),
            milliseconds(load.latencies.quantile_ms(0.5)),
            milliseconds(load.latencies.quantile_ms(0.99)),
        )
    }

    fn footer(&self, load: &Outcome) -> String {
        let failure = load.first_failure.as_ref().map(|why| format!("first failure: {why}\n"));
        format!(
            "\n{}dashboard {}, Ctrl-C ends it; elsewhere: weft stat, weft tap orders",
            failure.unwrap_or_default(),
            self.dashboard
        )
    }

    fn table(&self, services: &[(&'static str, Inbound)], now: Instant) -> String {
        let header = ["SERVICE", "SUCCESS", "RPS", "P50", "P99", "MTLS"].map(str::to_owned).to_vec();
        let row = |(name, inbound): &(&'static str, Inbound)| {
            vec![
                (*name).to_owned(),
                percent(inbound.success_rate()),
                self.rate(name, inbound, now).map_or_else(|| "-".to_owned(), |rate| format!("{rate:.1}")),
                milliseconds(inbound.quantile_ms(0.5)),
                milliseconds(inbound.quantile_ms(0.99)),
                percent(inbound.mtls_rate()),
            ]
        };
        output::align(std::iter::once(header).chain(services.iter().map(row)))
    }

    /// Requests a second since the last view.
    fn rate(&self, name: &str, inbound: &Inbound, now: Instant) -> Option<f64> {
        let (at, requests) = self.last.as_ref()?;
        let seconds = now.duration_since(*at).as_secs_f64();
        let before = requests.get(name)?;
        (seconds > 0.0).then(|| (inbound.requests - before).max(0.0) / seconds)
    }
}

/// The text with no line wider than the terminal: one that wraps would be two when we go up over it.
fn fit(text: &str, width: usize) -> String {
    text.lines().map(|line| line.chars().take(width).collect::<String>() + "\n").collect()
}

/// A share in percent that says 100 only where nothing is missing.
pub(crate) fn percent(share: f64) -> String {
    if share >= 1.0 { "100%".to_owned() } else { format!("{:.2}%", (share * 10_000.0).floor() / 100.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_percent_means_all() {
        assert_eq!(percent(1.0), "100%");
        assert_eq!(percent(0.999_999), "99.99%");
        assert_eq!(percent(0.5), "50.00%");
        assert_eq!(percent(0.0), "0.00%");
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        assert_eq!(fit("abcdef\n\ngh\n", 4), "abcd\n\ngh\n");
    }

    #[test]
    fn rates_are_since_the_last_view() {
        let start = Instant::now();
        let view = View {
            kind: Kind::Plain,
            dashboard: "http://127.0.0.1:7080".into(),
            started: start,
            last: Some((start, HashMap::from([("web", 100.0)]))),
            drawn: 0,
        };
        let inbound = |requests: f64| {
            Inbound::parse(&format!(
                "weft_requests_total{{direction=\"inbound\",tls=\"mutual\"}} {requests}\n"
            ))
        };
        let table =
            view.table(&[("web", inbound(150.0)), ("orders", inbound(10.0))], start + Duration::from_secs(2));
        assert_eq!(
            table,
            "SERVICE  SUCCESS  RPS   P50     P99     MTLS\n\
             web      100%     25.0  0.00ms  0.00ms  100%\n\
             orders   100%     -     0.00ms  0.00ms  100%\n"
        );
    }
}
