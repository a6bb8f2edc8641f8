//! Tasks with names: counted while they live, their panics caught, counted and logged, and awaited at the end.

use std::any::Any;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};

const FIRST_RESTART: Duration = Duration::from_millis(100);
const LAST_RESTART: Duration = Duration::from_secs(10);

/// How the tasks of one name fare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskCount {
    /// Their name.
    pub name: &'static str,
    /// How many were started.
    pub started: u64,
    /// How many live.
    pub live: u64,
    /// How many panics there were.
    pub panics: u64,
}

/// Starts a task. A panic in it ends it alone: it is counted and logged, and the handle reports it.
pub fn spawn<F>(name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    #[expect(clippy::disallowed_methods, reason = "the one place where tasks start")]
    tokio::spawn(Watched { future: Caught { future }, live: Live::start(name) })
}

/// The same on the thread of the caller, for futures that must stay there.
pub fn spawn_local<F>(name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future<Output: 'static> + 'static,
{
    tokio::task::spawn_local(Watched { future: Caught { future }, live: Live::start(name) })
}

/// Starts a task that is made anew after each panic, at growing intervals, until it returns.
pub fn supervise<M, F>(name: &'static str, mut make: M) -> JoinHandle<()>
where
    M: FnMut() -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let supervisor = async move {
        let mut pause = FIRST_RESTART;
        loop {
            let begun = Instant::now();
            match (Caught { future: make() }).await {
                Ok(()) => return,
                Err(panic) => Counts::of(name).panicked(&*panic),
            }
            if begun.elapsed() > LAST_RESTART {
                pause = FIRST_RESTART;
            }
            sleep(pause).await;
            pause = (2 * pause).min(LAST_RESTART);
        }
    };
    spawn(name, supervisor)
}

/// What every name ever used counts, in the order of the names.
pub fn counts() -> Vec<TaskCount> {
    let names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    names
        .values()
        .map(|counts| TaskCount {
            name: counts.name,
            started: counts.started.load(Relaxed),
            live: counts.live.load(Relaxed),
            panics: counts.panics.load(Relaxed),
        })
        .collect()
}

/// Waits until no task lives, at most for `deadline`; then says which do.
pub async fn idle(deadline: Duration) -> Result<(), Vec<TaskCount>> {
    let deadline = Instant::now() + deadline;
    loop {
        let ended = LAST_ENDED.notified();
        if LIVE.load(SeqCst) == 0 {
            return Ok(());
        }
        if timeout_at(deadline, ended).await.is_err() {
            return Err(counts().into_iter().filter(|count| count.live > 0).collect());
        }
    }
}

static NAMES: Mutex<BTreeMap<&'static str, &'static Counts>> = Mutex::new(BTreeMap::new());
static LIVE: AtomicU64 = AtomicU64::new(0);
static LAST_ENDED: Notify = Notify::const_new();

thread_local! {
    /// Names are found without a lock after their first use on a thread.
    static KNOWN: RefCell<HashMap<&'static str, &'static Counts>> = RefCell::default();
}

struct Counts {
    name: &'static str,
    started: AtomicU64,
    live: AtomicU64,
    panics: AtomicU64,
}

impl Counts {
    /// The counters of a name; they live as long as the process, and names are few.
    fn of(name: &'static str) -> &'static Self {
        let find = || {
            *NAMES.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_insert_with(|| {
                let zero = AtomicU64::default;
                Box::leak(Box::new(Self { name, started: zero(), live: zero(), panics: zero() }))
            })
        };
        KNOWN.with_borrow_mut(|known| *known.entry(name).or_insert_with(find))
    }

    fn panicked(&self, panic: &(dyn Any + Send)) {
        self.panics.fetch_add(1, Relaxed);
        let message = panic.downcast_ref::<&str>().copied();
        let message = message.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        tracing::error!(task = self.name, panic = message.unwrap_or("?"), "task panicked");
    }
}

/// A task's life in the counters.
struct Live(&'static Counts);

impl Live {
    fn start(name: &'static str) -> Self {
        let counts = Counts::of(name);
        counts.started.fetch_add(1, Relaxed);
        counts.live.fetch_add(1, Relaxed);
        LIVE.fetch_add(1, SeqCst);
        Self(counts)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.0.live.fetch_sub(1, Relaxed);
        if LIVE.fetch_sub(1, SeqCst) == 1 {
            LAST_ENDED.notify_waiters();
        }
    }
}

pin_project! {
    struct Watched<F> {
        // Dropped before `live`, so that a task counts until it has let go of everything.
        #[pin]
        future: Caught<F>,
        live: Live,
    }
}

impl<F: Future> Future for Watched<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        this.future.poll(context).map(|ended| match ended {
            Ok(output) => output,
            Err(panic) => {
                this.live.0.panicked(&*panic);
                resume_unwind(panic)
            }
        })
    }
}

pin_project! {
    struct Caught<F> {
        #[pin]
        future: F,
    }
}

impl<F: Future> Future for Caught<F> {
    type Output = std::thread::Result<F::Output>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match catch_unwind(AssertUnwindSafe(|| self.project().future.poll(context))) {
            Ok(poll) => poll.map(Ok),
            Err(panic) => Poll::Ready(Err(panic)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(name: &str) -> Option<(u64, u64, u64)> {
        counts().into_iter().find(|count| count.name == name).map(|c| (c.started, c.live, c.panics))
    }

    #[tokio::test]
    async fn tasks_are_counted_while_they_live() {
        let (release, released) = tokio::sync::oneshot::channel::<u8>();
        let task = spawn("test-counted", released);
        assert_eq!(count("test-counted"), Some((1, 1, 0)));
        release.send(7).unwrap();
        assert_eq!(task.await.unwrap(), Ok(7));
        assert_eq!(count("test-counted"), Some((1, 0, 0)));
    }

    #[tokio::test]
    async fn a_panic_is_counted_and_ends_its_task_alone() {
        let error = spawn("test-panics", async { panic!("on purpose") }).await.unwrap_err();
        assert!(error.is_panic());
        assert_eq!(count("test-panics"), Some((1, 0, 1)));
    }

    #[tokio::test]
    async fn an_aborted_task_lives_no_more() {
        let task = spawn("test-aborted", std::future::pending::<()>());
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        assert_eq!(count("test-aborted"), Some((1, 0, 0)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_supervised_task_is_made_anew_until_it_returns() {
        let mut made = 0;
        let task = supervise("test-supervised", move || {
            made += 1;
            async move { assert!(made == 4, "attempt {made}") }
        });
        task.await.unwrap();
        assert_eq!(count("test-supervised"), Some((1, 0, 3)));
    }

    #[tokio::test]
    async fn those_that_outlive_the_deadline_are_named_and_their_end_is_awaited() {
        let task = spawn("test-lingers", std::future::pending::<()>());
        let lingering = idle(Duration::from_millis(1)).await.unwrap_err();
        assert!(
            lingering.iter().any(|count| count.name == "test-lingers" && count.live == 1),
            "{lingering:?}"
        );
        task.abort();
        // Tests that run beside this one have tasks of their own, which end soon.
        idle(Duration::from_secs(60)).await.unwrap();
    }

    #[test]
    fn futures_that_must_stay_on_their_thread_do() {
        let runtime = tokio::runtime::Builder::new_current_thread().build_local(Default::default()).unwrap();
        let shared = std::rc::Rc::new(5);
        let task = async move { spawn_local("test-local", async move { *shared }).await.unwrap() };
        assert_eq!(runtime.block_on(task), 5);
        assert_eq!(count("test-local"), Some((1, 0, 0)));
    }
}
