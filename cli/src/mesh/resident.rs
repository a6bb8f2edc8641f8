//! A thread that lives in a pod: what it starts and opens is in the pod, and what it starts lives as long as it.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::process::ExitStatus;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CapabilitySet, capabilities, configure_capability_in_ambient_set, set_capabilities};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::timeout;
use weft_pods::{Exemption, Pod, SIDECAR_UID};

/// Jobs that may wait for the thread.
const QUEUE: usize = 16;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

type Job = Box<dyn FnOnce() + Send>;

/// A thread in a pod. Dropped, it ends, and with it everything that it started.
#[derive(Debug)]
pub(crate) struct Resident {
    name: String,
    /// None only while it is dropped.
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

/// What a program in a pod is to its sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// It is the sidecar: its traffic is let through.
    Sidecar,
    /// Its traffic is the sidecar's business.
    Application,
}

impl Resident {
    /// Moves in.
    pub(crate) fn new(pod: Pod) -> anyhow::Result<Self> {
        let name = format!("the pod {}", pod.name());
        Self::settle(name, move |queue| {
            // Where the namespace cannot be entered the queue is dropped, and every job says so.
            let _ = pod.run(|| queue.into_iter().for_each(|job| job()));
        })
    }

    /// One that stays where we are, in the machine's own network.
    pub(crate) fn of_machine() -> anyhow::Result<Self> {
        Self::settle("this machine".to_owned(), |queue| queue.into_iter().for_each(|job| job()))
    }

    fn settle(name: String, live: impl FnOnce(Receiver<Job>) + Send + 'static) -> anyhow::Result<Self> {
        let (jobs, queue) = sync_channel::<Job>(QUEUE);
        let thread = thread::Builder::new().name("resident".to_owned()).spawn(move || live(queue));
        Ok(Self { name, jobs: Some(jobs), thread: Some(thread.context("cannot start a thread")?) })
    }

    /// Does something in the pod. It must not take long: others wait.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> anyhow::Result<T> {
        let (done, result) = oneshot::channel();
        let job = Box::new(move || {
            // Nobody waits any more where the caller was cancelled.
            let _ = done.send(work());
        });
        let gone = || anyhow!("cannot enter {}", self.name);
        let jobs = self.jobs.as_ref().ok_or_else(gone)?;
        jobs.try_send(job).map_err(|_| anyhow!("{} is busy", self.name))?;
        result.await.map_err(|_| gone())
    }

    /// Starts a program in the pod.
    pub(crate) async fn spawn(&self, mut command: Command, role: Role) -> anyhow::Result<Child> {
        let runtime = Handle::current();
        let started = self.run(move || {
            let _entered = runtime.enter();
            match (role, Exemption::here()) {
                (Role::Application, _) => command.spawn(),
                (Role::Sidecar, Exemption::User(id)) => command.uid(id).gid(id).spawn(),
                (Role::Sidecar, Exemption::Mark(mark)) => {
                    command.env("WEFT_MARK", format!("{mark:#x}"));
                    with_capability(CapabilitySet::NET_ADMIN, || command.spawn())
                }
            }
        });
        started.await?.with_context(|| format!("cannot start a program in {}", self.name))
    }

    /// Opens a connection from the pod.
    pub(crate) async fn connect(&self, to: &str) -> anyhow::Result<TcpStream> {
        let there = to.to_owned();
        let stream = self.run(move || connect(&there)).await?;
        let stream = stream.with_context(|| format!("cannot connect to {to} from {}", self.name))?;
        Ok(TcpStream::from_std(stream)?)
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        self.jobs = None;
        // Until the thread has ended the pod exists.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Whom files belong to that only a sidecar may read.
pub(crate) fn sidecar_owner() -> Option<u32> {
    matches!(Exemption::here(), Exemption::User(_)).then_some(SIDECAR_UID)
}

fn connect(to: &str) -> io::Result<std::net::TcpStream> {
    let mut failed = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in to.to_socket_addrs()? {
        let address: SocketAddr = address;
        match std::net::TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(stream) => {
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// Lets what is started meanwhile by this thread keep one of its capabilities.
fn with_capability<T>(capability: CapabilitySet, start: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let mut sets = capabilities(None)?;
    sets.inheritable |= capability;
    set_capabilities(None, sets)?;
    configure_capability_in_ambient_set(capability, true)?;
    let started = start();
    configure_capability_in_ambient_set(capability, false)?;
    started
}

/// Asks a program to end and waits; one that takes longer than `patience` is killed.
pub(crate) async fn end(child: &mut Child, patience: Duration) -> io::Result<ExitStatus> {
    signal(child, Signal::TERM);
    match timeout(patience, child.wait()).await {
        Ok(ended) => ended,
        Err(_) => {
            child.start_kill()?;
            child.wait().await
        }
    }
}

/// Sends a signal to a program that has not ended.
pub(crate) fn signal(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // One that ended at this moment needs no signal.
        let _ = kill_process(pid, signal);
    }
}
