//! How long a request is waited for: one timer for all that limits it, or none where nothing does. What passes when,
//! [`weft_core::limits`] decides.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};
use tokio::time::{Instant, Sleep, sleep_until};
use weft_core::deadline;
use weft_core::limits::{Late, Limits, Progress};

use super::Exchange;
use crate::failure::ErrorCode;

/// When a timer is looked at for which there is nothing to wait.
const NEVER: Duration = Duration::from_hours(1);

static GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// What a call's own head allows it, where it is gRPC's.
pub fn allowed(headers: &HeaderMap) -> Option<Duration> {
    headers.get(&GRPC_TIMEOUT).and_then(|value| deadline::parse(value.as_bytes()))
}

/// What is left of a request's time; most have as much as they like.
#[derive(Debug, Default)]
pub struct Patience {
    watched: Option<Box<Watched>>,
    /// It has become bytes both ways, which are limited by nothing but their silence.
    is_opened: bool,
}

#[derive(Debug)]
struct Watched {
    limits: Limits,
    /// What the caller itself allows, whatever policies say.
    allowed: Option<Duration>,
    progress: Progress,
    /// Not later than what passes next; looked at when it fires.
    timer: Pin<Box<Sleep>>,
    fires: Instant,
}

impl Patience {
    /// For a request that began so long ago and is limited so.
    pub fn new(limits: Option<&Limits>, allowed: Option<Duration>, ago: Duration) -> Self {
        let limits = limits.copied().unwrap_or_default().within(allowed);
        if limits.is_none() {
            return Self::default();
        }
        let now = Instant::now();
        let begun = now.checked_sub(ago).unwrap_or(now).into_std();
        let progress = Progress { begun, tried: None, is_answered: false, moved: now.into_std() };
        let fires = limits.next(&progress).map_or(now + NEVER, |(at, _)| at.into());
        let timer = Box::pin(sleep_until(fires));
        Self {
            watched: Some(Box::new(Watched { limits, allowed, progress, timer, fires })),
            is_opened: false,
        }
    }

    /// A try is over, or none has begun: only the whole is waited for.
    pub fn end_try(&mut self) {
        if let Some(watched) = &mut self.watched {
            watched.progress.tried = None;
        }
    }

    /// A try begins.
    pub fn begin_try(&mut self) {
        if let Some(watched) = &mut self.watched {
            watched.progress.tried = Some(Instant::now().into_std());
            watched.progress.is_answered = false;
            watched.rearm();
        }
    }

    /// The head of its answer has come.
    pub fn answered(&mut self) {
        if let Some(watched) = &mut self.watched {
            watched.progress.is_answered = true;
        }
    }

    /// Something of a request has moved: from now on holds what is said now.
    pub fn moved(&mut self, exchange: &Exchange) {
        if let Some(limits) = exchange.renewed() {
            self.follow(limits, exchange.age());
        }
        self.stirred();
    }

    /// Another policy is in force than before, for a request that began so long ago.
    fn follow(&mut self, limits: Limits, ago: Duration) {
        let limits = if self.is_opened { of_bytes(limits) } else { limits };
        match &mut self.watched {
            Some(watched) => {
                let allowed = watched.allowed.filter(|_| !self.is_opened);
                watched.limits = limits.within(allowed);
                watched.rearm();
            }
            None => self.watched = Self::new(Some(&limits), None, ago).watched,
        }
    }

    fn stirred(&mut self) {
        if let Some(watched) = &mut self.watched
            && watched.limits.idle.is_some()
        {
            watched.progress.moved = Instant::now().into_std();
            watched.rearm();
        }
    }

    /// It has become bytes both ways, which are limited by nothing but their silence.
    pub fn opened(&mut self) {
        self.is_opened = true;
        if let Some(watched) = &mut self.watched {
            watched.limits = of_bytes(watched.limits);
        }
    }

    /// What is left of the whole; none: it is not limited.
    pub fn remaining(&self) -> Option<Duration> {
        let watched = self.watched.as_ref()?;
        watched.limits.remaining(watched.progress.begun, Instant::now().into_std())
    }

    /// What is left for a try that begins now; none: it is not limited.
    pub fn left(&self) -> Option<Duration> {
        let watched = self.watched.as_ref()?;
        watched.limits.left(watched.progress.begun, Instant::now().into_std())
    }

    /// Tells the next hop of a gRPC call what is left. False where nothing is.
    pub fn tell(&self, headers: &mut HeaderMap) -> bool {
        let Some(left) = self.left() else { return true };
        if let Ok(value) = HeaderValue::from_str(&deadline::write(left)) {
            headers.insert(&GRPC_TIMEOUT, value);
        }
        !left.is_zero()
    }

    /// Ready when something has passed.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Late> {
        match &mut self.watched {
            Some(watched) => watched.poll(cx),
            None => Poll::Pending,
        }
    }

    /// Does something as long as there is time for it.
    pub async fn allows<T>(
        &mut self,
        doing: impl Future<Output = Result<T, ErrorCode>>,
    ) -> Result<T, ErrorCode> {
        if self.watched.is_none() {
            return doing.await;
        }
        let mut doing = pin!(doing);
        poll_fn(|cx| match doing.as_mut().poll(cx) {
            Poll::Pending => self.poll(cx).map(|_| Err(ErrorCode::Timeout)),
            ready @ Poll::Ready(_) => ready,
        })
        .await
    }
}

fn of_bytes(limits: Limits) -> Limits {
    Limits { idle: limits.idle, ..Limits::default() }
}

impl Watched {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Late> {
        while self.timer.as_mut().poll(cx).is_ready() {
            let next = self.limits.next(&self.progress).map(|(at, late)| (Instant::from(at), late));
            match next {
                Some((at, late)) if at <= Instant::now() => return Poll::Ready(late),
                Some((at, _)) => self.fires = at,
                None => self.fires = Instant::now() + NEVER,
            }
            self.timer.as_mut().reset(self.fires);
        }
        Poll::Pending
    }

    /// Something new may pass before what the timer waits for.
    fn rearm(&mut self) {
        if let Some((at, _)) = self.limits.next(&self.progress)
            && Instant::from(at) < self.fires
        {
            self.fires = at.into();
            self.timer.as_mut().reset(self.fires);
        }
    }
}

#[cfg(test)]
mod tests {
    use weft_core::limits::{Each, Until};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Something has moved, while this is said.
    fn stir(patience: &mut Patience, limits: Limits) {
        patience.follow(limits, Duration::ZERO);
        patience.stirred();
    }

    async fn late(patience: &mut Patience) -> Late {
        poll_fn(|cx| patience.poll(cx)).await
    }

    #[tokio::test(start_paused = true)]
    async fn what_passes_first_is_told_at_its_time() {
        let begun = Instant::now();
        let each = Some(Each { limit: SECOND, until: Until::Head });
        let limits = Limits { whole: Some(5 * SECOND), each, idle: Some(3 * SECOND) };
        let mut patience = Patience::new(Some(&limits), None, Duration::ZERO);
        patience.begin_try();
        assert_eq!((late(&mut patience).await, begun.elapsed()), (Late::Try, SECOND));
        patience.end_try();
        assert_eq!(patience.allows(async { Ok(()) }).await, Ok(()));
        patience.begin_try();
        patience.answered();
        tokio::time::sleep(SECOND).await;
        stir(&mut patience, limits);
        assert_eq!((late(&mut patience).await, begun.elapsed()), (Late::Whole, 5 * SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_counts_from_what_last_moved() {
        let begun = Instant::now();
        let limits = Limits { idle: Some(3 * SECOND), ..Limits::default() };
        let mut patience = Patience::new(Some(&limits), None, Duration::ZERO);
        for _ in 0..3 {
            tokio::time::sleep(2 * SECOND).await;
            stir(&mut patience, limits);
        }
        assert_eq!((late(&mut patience).await, begun.elapsed()), (Late::Idle, 9 * SECOND));
        stir(&mut patience, Limits { idle: Some(SECOND), ..limits });
        assert_eq!((late(&mut patience).await, begun.elapsed()), (Late::Idle, 10 * SECOND));
        stir(&mut patience, Limits::default());
        assert!(tokio::time::timeout(9 * SECOND, late(&mut patience)).await.is_err());
        // Nothing was waited for meanwhile.
        let begun = Instant::now();
        stir(&mut patience, limits);
        assert_eq!((late(&mut patience).await, begun.elapsed()), (Late::Idle, 3 * SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_said_later_holds_for_what_is_open() {
        let whole = |limit: Duration| Limits { whole: Some(limit), ..Limits::default() };
        let begun = Instant::now();
        // It has begun where nothing limits it, a second before it is told otherwise.
        let mut patience = Patience::new(None, None, Duration::ZERO);
        tokio::time::sleep(SECOND).await;
        patience.follow(whole(4 * SECOND), SECOND);
        patience.follow(whole(3 * SECOND), SECOND);
        assert_eq!((late(&mut patience).await, begun.elapsed()), (Late::Whole, 3 * SECOND));
        patience.follow(whole(5 * SECOND), 3 * SECOND);
        assert_eq!((late(&mut patience).await, begun.elapsed()), (Late::Whole, 5 * SECOND));

        // What the caller itself allows holds whatever is said.
        let mut patience = Patience::new(None, Some(2 * SECOND), Duration::ZERO);
        patience.follow(Limits::default(), Duration::ZERO);
        assert_eq!(patience.remaining(), Some(2 * SECOND));
        // Bytes are limited by their silence alone.
        patience.opened();
        patience.follow(whole(SECOND), Duration::ZERO);
        assert_eq!(patience.remaining(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_waited_for_before_counts_and_what_is_left_is_told() {
        let mut patience = Patience::new(None, Some(3 * SECOND), SECOND);
        let mut headers = HeaderMap::new();
        assert!(patience.tell(&mut headers));
        assert_eq!(headers["grpc-timeout"], "2000000u");
        let never = std::future::pending::<Result<(), _>>();
        assert_eq!(patience.allows(never).await, Err(ErrorCode::Timeout));
        assert!(!patience.tell(&mut headers));
    }
}
