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

use crate::failure::ErrorCode;

static GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// What a call's own head allows it, where it is gRPC's.
pub fn allowed(headers: &HeaderMap) -> Option<Duration> {
    headers.get(&GRPC_TIMEOUT).and_then(|value| deadline::parse(value.as_bytes()))
}

/// What is left of a request's time; most have as much as they like.
#[derive(Debug, Default)]
pub struct Patience(Option<Box<Watched>>);

#[derive(Debug)]
struct Watched {
    limits: Limits,
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
            return Self(None);
        }
        let now = Instant::now();
        let begun = now.checked_sub(ago).unwrap_or(now).into_std();
        let progress = Progress { begun, tried: None, is_answered: false, moved: now.into_std() };
        let fires = limits.next(&progress).map_or(now + Duration::from_hours(1), |(at, _)| at.into());
        Self(Some(Box::new(Watched { limits, progress, timer: Box::pin(sleep_until(fires)), fires })))
    }

    /// A try is over, or none has begun: only the whole is waited for.
    pub fn end_try(&mut self) {
        if let Some(watched) = &mut self.0 {
            watched.progress.tried = None;
        }
    }

    /// A try begins.
    pub fn begin_try(&mut self) {
        if let Some(watched) = &mut self.0 {
            watched.progress.tried = Some(Instant::now().into_std());
            watched.progress.is_answered = false;
            watched.rearm();
        }
    }

    /// The head of its answer has come.
    pub fn answered(&mut self) {
        if let Some(watched) = &mut self.0 {
            watched.progress.is_answered = true;
        }
    }

    /// Something has moved, and this is how long nothing may from now on: another policy may be in force than at the beginning.
    pub fn moved(&mut self, idle: Option<Duration>) {
        match &mut self.0 {
            Some(watched) => {
                watched.limits.idle = idle;
                if idle.is_some() {
                    watched.progress.moved = Instant::now().into_std();
                    watched.rearm();
                }
            }
            None if idle.is_some() => {
                let limits = Limits { idle, ..Limits::default() };
                *self = Self::new(Some(&limits), None, Duration::ZERO);
            }
            None => {}
        }
    }

    /// It has become bytes both ways, which are limited by nothing but their silence.
    pub fn opened(&mut self) {
        if let Some(watched) = &mut self.0 {
            watched.limits.whole = None;
            watched.limits.each = None;
        }
    }

    /// What is left of the whole; none: it is not limited.
    pub fn remaining(&self) -> Option<Duration> {
        let watched = self.0.as_ref()?;
        watched.limits.remaining(watched.progress.begun, Instant::now().into_std())
    }

    /// What is left for a try that begins now; none: it is not limited.
    pub fn left(&self) -> Option<Duration> {
        let watched = self.0.as_ref()?;
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
        match &mut self.0 {
            Some(watched) => watched.poll(cx),
            None => Poll::Pending,
        }
    }

    /// Does something as long as there is time for it.
    pub async fn allows<T>(
        &mut self,
        doing: impl Future<Output = Result<T, ErrorCode>>,
    ) -> Result<T, ErrorCode> {
        if self.0.is_none() {
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

impl Watched {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Late> {
        while self.timer.as_mut().poll(cx).is_ready() {
            let Some((at, late)) = self.limits.next(&self.progress) else { return Poll::Pending };
            let at = Instant::from(at);
            if at <= Instant::now() {
                return Poll::Ready(late);
            }
            self.fires = at;
            self.timer.as_mut().reset(at);
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
        patience.moved(limits.idle);
        assert_eq!((late(&mut patience).await, begun.elapsed()), (Late::Whole, 5 * SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_counts_from_what_last_moved() {
        let begun = Instant::now();
        let limits = Limits { idle: Some(3 * SECOND), ..Limits::default() };
        let mut patience = Patience::new(Some(&limits), None, Duration::ZERO);
        for _ in 0..3 {
            tokio::time::sleep(2 * SECOND).await;
            patience.moved(limits.idle);
        }
        assert_eq!((late(&mut patience).await, begun.elapsed()), (Late::Idle, 9 * SECOND));
        patience.moved(Some(SECOND));
        assert_eq!((late(&mut patience).await, begun.elapsed()), (Late::Idle, 10 * SECOND));
        patience.moved(None);
        assert!(tokio::time::timeout(9 * SECOND, late(&mut patience)).await.is_err());
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
