//! Requests as they pass: a page that goes on being written for as long as somebody looks at it, and needs no script for that.
//!
//! When the page is closed its connection ends, its body is dropped, and with it the filter in every sidecar.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Frame as Piece, SizeHint};
use tokio::time::{Interval, interval, sleep};
use tokio_stream::Stream as _;
use weft_proto::v1::{TapEvent, TapRequest, TapSeen};
use weft_runtime::drain::DrainWatch;

use super::html::{Escaped, Frame, Ms, Page, Place, Query, field};
use crate::report::rfc3339;
use crate::taps::Watching;

/// How long one page goes on.
const LASTS: Duration = Duration::from_mins(4);
/// Requests that one page shows.
const MOST: usize = 2_000;
/// How often something is written, so that it is noticed when nobody looks any more.
const BEAT: Duration = Duration::from_secs(2);

/// The body of an answer: whole, or a tap's.
pub(crate) enum Body {
    Whole(Full<Bytes>),
    Passing(Box<Passing>),
}

/// What is written of a tap, piece by piece.
pub(crate) struct Passing {
    watching: Option<Watching>,
    /// The page down to its table.
    begin: Option<Bytes>,
    shown: usize,
    beat: Interval,
    /// Why it ends.
    end: Pin<Box<dyn Future<Output = &'static str> + Send>>,
}

impl From<Full<Bytes>> for Body {
    fn from(whole: Full<Bytes>) -> Self {
        Self::Whole(whole)
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Piece<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(whole) => Pin::new(whole).poll_frame(context),
            Self::Passing(passing) => {
                passing.poll(context).map(|piece| piece.map(|piece| Ok(Piece::data(piece))))
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(whole) => whole.size_hint(),
            Self::Passing(_) => SizeHint::default(),
        }
    }
}

impl Passing {
    /// From now on, until somebody closes the page, the drain begins, or it has gone on for long enough.
    pub(super) fn new(begin: String, watching: Watching, mut drain: DrainWatch) -> Self {
        let end = async move {
            tokio::select! {
                () = sleep(LASTS) => "A page goes on for 4 minutes.",
                () = drain.draining() => "The control plane ends.",
            }
        };
        Self {
            watching: Some(watching),
            begin: Some(begin.into()),
            shown: 0,
            beat: interval(BEAT),
            end: Box::pin(end),
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Some(begin) = self.begin.take() {
            return Poll::Ready(Some(begin));
        }
        let Some(watching) = &mut self.watching else { return Poll::Ready(None) };
        let why = match Pin::new(watching).poll_next(context) {
            Poll::Ready(Some(Ok(seen))) if self.shown < MOST => {
                self.shown += 1;
                return Poll::Ready(Some(row(&seen).into()));
            }
            Poll::Ready(Some(Ok(_))) => {
                "A page shows 2000 requests; a narrower filter shows them for longer."
            }
            Poll::Ready(Some(Err(_)) | None) => "Too many waited to be read here.",
            Poll::Pending => match self.end.as_mut().poll(context) {
                Poll::Ready(why) => why,
                Poll::Pending if self.beat.poll_tick(context).is_ready() => {
                    return Poll::Ready(Some(Bytes::from_static(b"<!-- -->\n")));
                }
                Poll::Pending => return Poll::Pending,
            },
        };
        self.watching = None;
        Poll::Ready(Some(
            format!("{END}<p role=\"status\">{why} <a href=\"\">Look again</a></p></main></body></html>")
                .into(),
        ))
    }
}

/// What ends the table.
const END: &str = "</tbody></table></div>";

/// What the form asks for; none: nothing yet.
pub(super) fn request(query: &Query) -> Option<TapRequest> {
    let value = |name: &str| query.value(name).trim().to_owned();
    (!value("service").is_empty()).then(|| TapRequest {
        service: value("service"),
        from: value("from"),
        method: value("method").to_ascii_uppercase(),
        path: value("path"),
        status: value("status"),
        ..TapRequest::default()
    })
}

/// The form, and why what it asked for cannot be shown.
pub(super) fn form(query: &Query, services: &[String], refused: Option<&str>, frame: &Frame) -> String {
    let mut page = Page::new("Tap", Place::Tap, frame);
    asks(&mut page, query, services);
    match refused {
        Some(reason) => _ = page.push(format_args!("<p class=\"bad\" role=\"alert\">{}</p>", Escaped(reason))),
        None => _ = page.note("Requests to a service are shown when they have ended, by their line and what became of them: no query, no header, no body. While nobody looks, nothing is copied."),
    }
    page.finish()
}

/// The page down to its table.
pub(super) fn begin(query: &Query, services: &[String], frame: &Frame) -> String {
    let mut page = Page::new(format!("Tap {}", query.value("service")), Place::Tap, frame);
    asks(&mut page, query, services);
    page.push("<p><small>Live. Only what ends from now on is shown, the newest last.</small> <a class=\"stop\" href=\"/tap\">Stop</a></p>");
    page.push(
        "<div class=\"log\" tabindex=\"0\" role=\"log\" aria-label=\"Requests\"><table><thead><tr><th scope=\"col\">Ended</th><th scope=\"col\">From</th>\
         <th scope=\"col\">Request</th><th class=\"n\" scope=\"col\">Status</th><th class=\"n\" scope=\"col\">Took</th><th scope=\"col\">Route</th>\
         <th scope=\"col\">TLS</th><th scope=\"col\">Trace</th></tr></thead><tbody>\n",
    );
    page.unfinished()
}

fn asks(page: &mut Page, query: &Query, services: &[String]) {
    page.push("<form action=\"/tap\">")
        .push(format_args!(
            "<label>Service<input name=\"service\" value=\"{}\" list=\"services\" required autocomplete=\"off\" spellcheck=\"false\"></label><datalist id=\"services\">",
            Escaped(query.value("service"))
        ));
    for service in services {
        page.push(format_args!("<option value=\"{}\">", Escaped(service)));
    }
    page.push("</datalist>")
        .push(field("From, a service account", "from", query.value("from"), "web"))
        .push(field("Method", "method", query.value("method"), "POST"))
        .push(field("Path", "path", query.value("path"), "/orders/*"))
        .push(field("Status", "status", query.value("status"), "5xx"))
        .push("<button>Look</button></form>");
}

fn row(seen: &TapSeen) -> String {
    if !seen.missing.is_empty() {
        return format!("<tr><td class=\"warn\" colspan=\"8\">{}.</td></tr>\n", Escaped(&seen.missing));
    }
    let missed = match seen.left_out {
        0 => String::new(),
        count => format!("<tr><td class=\"warn\" colspan=\"8\">{count} more were left out here.</td></tr>"),
    };
    let Some(event) = &seen.event else { return missed };
    let ended = rfc3339(SystemTime::UNIX_EPOCH + Duration::from_micros(event.ended_us));
    let time = ended.split_once('T').map_or("", |(_, time)| time);
    let trace = match event.trace_id.as_str() {
        "" => "-".to_owned(),
        id => format!(
            "<a href=\"/traces/{0}\">{1}</a>",
            Escaped(id),
            Escaped(id.chars().take(8).collect::<String>())
        ),
    };
    let retries = match event.retries {
        0 => String::new(),
        count => format!(" <small>after {count} retries</small>"),
    };
    let (class, status) = outcome(event);
    format!(
        "{missed}<tr><td>{}</td><td>{}</td><td>{} <code>{}</code></td><td class=\"n {class}\">{}{retries}</td><td class=\"n\">{}</td><td>{}</td><td>{}</td><td>{trace}</td></tr>\n",
        Escaped(time),
        Escaped(&event.caller),
        Escaped(&event.method),
        Escaped(&event.path),
        Escaped(status),
        Ms(Duration::from_micros(event.duration_us).as_secs_f64() * 1000.0),
        Escaped(&event.route),
        Escaped(&event.tls),
    )
}

fn outcome(event: &TapEvent) -> (&'static str, String) {
    let mut text = match event.status {
        0 => "caller left".to_owned(),
        status => status.to_string(),
    };
    if let Some(grpc) = event.grpc_status {
        text.push_str(&format!(" grpc {grpc}"));
    }
    if !event.error.is_empty() {
        text.push_str(&format!(" {}", event.error));
    }
    let failed =
        event.status >= 500 || !event.error.is_empty() || event.grpc_status.is_some_and(|status| status != 0);
    let class = match event.status {
        _ if failed => "bad",
        0 | 400.. => "warn",
        _ => "good",
    };
    (class, text)
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Whole(_) => "Whole",
            Self::Passing(_) => "Passing",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use http_body_util::BodyExt as _;
    use weft_core::model::QualifiedName;
    use weft_proto::v1::{TapEvents, TapFilter};

    use super::*;
    use crate::taps::Taps;

    fn event(path: &str) -> TapEvent {
        TapEvent {
            caller: "default/web".into(),
            service: "default/orders".into(),
            method: "GET".into(),
            path: path.into(),
            status: 503,
            error: "no-endpoints".into(),
            trace_id: "4bf92f3577b34da6a3ce929d0e0e4736".into(),
            duration_us: 3_400,
            ..TapEvent::default()
        }
    }

    fn open(taps: &Arc<Taps>) -> (Body, weft_runtime::drain::Drain) {
        let filter = TapFilter { service: "default/orders".into(), ..TapFilter::default() };
        let watching = taps.open(filter, None).expect("a place");
        let (drain, watch) = weft_runtime::drain::channel();
        (Body::Passing(Box::new(Passing::new("begin".into(), watching, watch))), drain)
    }

    fn deliver(taps: &Taps, path: &str) {
        let web: QualifiedName = "default/web".parse().expect("a name");
        let id = taps.wanted_of(&web).first().expect("a filter").id;
        let events = vec![TapEvent { taps: vec![id], ..event(path) }];
        taps.deliver(&web, &web, TapEvents { events, left_out: 0 }, Instant::now());
    }

    async fn next(body: &mut Body) -> Option<String> {
        let piece = body.frame().await?.expect("it cannot fail").into_data().expect("data");
        Some(String::from_utf8(piece.into()).expect("text"))
    }

    #[tokio::test(start_paused = true)]
    async fn what_passes_is_written_until_nobody_reads_it() {
        let taps = Arc::new(Taps::default());
        let (mut body, _drain) = open(&taps);
        assert_eq!(next(&mut body).await.as_deref(), Some("begin"));
        deliver(&taps, "/<script>");
        let shown = next(&mut body).await.expect("a row");
        assert!(shown.contains("&lt;script&gt;") && !shown.contains("<script>"), "{shown}");
        assert!(shown.contains("503 no-endpoints") && shown.contains("3.4 ms"), "{shown}");
        assert!(
            shown.contains("<a href=\"/traces/4bf92f3577b34da6a3ce929d0e0e4736\">4bf92f35</a>"),
            "{shown}"
        );
        assert_eq!(next(&mut body).await.as_deref(), Some("<!-- -->\n"), "somebody may have gone");
        assert_eq!(taps.looking(), 1);
        drop(body);
        assert_eq!(taps.looking(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_page_ends_by_its_time_its_length_or_the_drain() {
        let taps = Arc::new(Taps::default());
        let rest = async |mut body: Body| {
            let mut last = String::new();
            while let Some(piece) = next(&mut body).await {
                last = piece;
            }
            last
        };
        let (body, _drain) = open(&taps);
        assert!(rest(body).await.contains("4 minutes"));
        let (body, drain) = open(&taps);
        drain.start();
        assert!(rest(body).await.contains("The control plane ends"));
        let (mut body, _drain) = open(&taps);
        next(&mut body).await;
        for _ in 0..MOST {
            deliver(&taps, "/");
            assert!(next(&mut body).await.is_some_and(|row| row.contains("<tr>")));
        }
        deliver(&taps, "/");
        assert!(rest(body).await.contains("2000 requests"));
        assert_eq!(taps.looking(), 0);
    }

    #[test]
    fn a_form_asks_for_a_tap() {
        assert_eq!(request(&Query::of(Some("from=web"))), None);
        let asked = request(&Query::of(Some("service=orders&method=post&status=5xx"))).expect("a request");
        assert_eq!(
            (asked.service.as_str(), asked.method.as_str(), asked.status.as_str()),
            ("orders", "POST", "5xx")
        );
        let page = form(&Query::of(Some("service=%3Cb%3E")), &["<i>".into()], Some("<u>"), &Frame::default());
        assert!(page.contains("&lt;b&gt;") && !page.contains("<i>") && !page.contains("<u>"), "{page}");
    }
}
