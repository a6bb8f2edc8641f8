//! How the `weft` commands of one user find the mesh that one of them holds.
//!
//! The holder listens on an abstract Unix socket (unix(7)): there is one of a name, it is gone with its process, and
//! the kernel says whose process is at the other end. Whoever calls is told how to reach the mesh. A caller that stays
//! on the line keeps the mesh alive; who hangs up last is answered when it is gone.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::{SocketAddr, UnixListener as StdListener, UnixStream as StdStream};
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use rustix::net::sockopt::socket_peercred;
use rustix::process::getuid;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::sleep;

use super::Access;

/// A holder that has just started takes a moment until it answers, on a busy machine longer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a mesh takes to end.
const END_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a holder that nobody has called yet waits.
const FIRST_CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest greeting.
const GREETING_LIMIT: u64 = 64 * 1024;

/// What the user's meshes are called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name(String);

impl Name {
    /// The mesh of `weft run`.
    pub(crate) fn of_runs() -> Self {
        Self::of("run")
    }

    /// The mesh of `weft demo`.
    pub(crate) fn of_demo() -> Self {
        Self::of("demo")
    }

    /// The hub of the runs that joined these control planes.
    pub(crate) fn of_outpost(urls: &[String]) -> Self {
        Self::of(&format!("run {}", urls.join(",")))
    }

    /// Names are the user's, and within that of the session that `XDG_RUNTIME_DIR` stands for.
    fn of(kind: &str) -> Self {
        let folder = std::env::var_os("XDG_RUNTIME_DIR").and_then(|folder| fs::metadata(folder).ok());
        let session = folder.map_or_else(String::new, |at| format!("{:x}-{:x}", at.dev(), at.ino()));
        Self(format!("weft {} {session} {kind}", getuid().as_raw()))
    }

    /// The kernel allows 107 bytes; what is longer is told apart by its hash.
    fn address(&self) -> io::Result<SocketAddr> {
        let mut hash = std::hash::DefaultHasher::new();
        std::hash::Hash::hash(&self.0, &mut hash);
        let start: String = self.0.chars().take(64).collect();
        SocketAddr::from_abstract_name(format!("{start} {:016x}", std::hash::Hasher::finish(&hash)))
    }
}

/// A call that is on the line.
#[derive(Debug)]
pub(crate) struct Call {
    access: Access,
    line: StdStream,
}

impl Call {
    /// Calls the holder of a mesh; none where there is no holder, or one that ends at this moment.
    pub(crate) fn dial(name: &Name) -> anyhow::Result<Option<Self>> {
        let line = match StdStream::connect_addr(&name.address()?) {
            Ok(line) => line,
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok(None),
            Err(error) => return Err(error).context("cannot call the mesh of this machine"),
        };
        if !is_ours(&line) {
            bail!("the mesh of this machine is held by another user's process");
        }
        line.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        let mut greeting = String::new();
        let heard = BufReader::new((&line).take(GREETING_LIMIT)).read_line(&mut greeting);
        match heard {
            Ok(0) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            heard => heard.context("the mesh of this machine does not answer")?,
        };
        let access =
            serde_json::from_str(&greeting).context("the mesh of this machine is of another version")?;
        Ok(Some(Self { access, line }))
    }

    /// How to reach the mesh.
    pub(crate) fn access(&self) -> &Access {
        &self.access
    }

    /// The line, to hear when the holder ends before us.
    pub(crate) fn line(&self) -> io::Result<UnixStream> {
        let line = self.line.try_clone()?;
        line.set_nonblocking(true)?;
        UnixStream::from_std(line)
    }

    /// Hangs up. Where nobody else is on the line the mesh ends, and so it has when this returns.
    pub(crate) fn hang_up(mut self) -> io::Result<()> {
        self.line.set_nonblocking(false)?;
        self.line.set_read_timeout(Some(END_TIMEOUT))?;
        self.line.shutdown(Shutdown::Write)?;
        io::copy(&mut self.line, &mut io::sink()).map(|_| ())
    }
}

/// Waits until the holder hangs up.
pub(crate) async fn hung_up(line: &mut UnixStream) {
    // Whatever it may say, it says nothing that we wait for.
    let _ = tokio::io::copy(line, &mut tokio::io::sink()).await;
}

/// Becomes the holder of a mesh; none where there is one.
pub(crate) fn listen(name: &Name) -> anyhow::Result<Option<StdListener>> {
    match StdListener::bind_addr(&name.address()?) {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(None),
        Err(error) => Err(error).context("cannot hold the mesh of this machine"),
    }
}

/// Tells callers how to reach the mesh, for ever.
pub(crate) async fn tell(listener: StdListener, access: Access) -> anyhow::Result<()> {
    hold(listener, &access, Duration::MAX).await.map(drop)
}

/// Tells callers how to reach the mesh, until all have hung up. What is returned is the last one's line, which is to be
/// dropped when the mesh has ended.
pub(crate) async fn serve(listener: StdListener, access: &Access) -> anyhow::Result<Option<UnixStream>> {
    hold(listener, access, FIRST_CALL_TIMEOUT).await
}

async fn hold(
    listener: StdListener,
    access: &Access,
    patience: Duration,
) -> anyhow::Result<Option<UnixStream>> {
    listener.set_nonblocking(true)?;
    let listener = UnixListener::from_std(listener)?;
    let greeting = serde_json::to_string(access)? + "\n";
    let mut lines = FuturesUnordered::new();
    loop {
        tokio::select! {
            // Calls first: who comes while the last one goes is not lost.
            biased;
            call = listener.accept() => {
                let (mut line, _) = call.context("cannot take a call")?;
                if is_ours(&line) && line.write_all(greeting.as_bytes()).await.is_ok() {
                    lines.push(async move {
                        hung_up(&mut line).await;
                        line
                    });
                }
            }
            Some(line) = lines.next(), if !lines.is_empty() => {
                if lines.is_empty() && patience < Duration::MAX {
                    return Ok(Some(line));
                }
            }
            () = sleep(patience), if lines.is_empty() => return Ok(None),
        }
    }
}

/// Whether the process at the other end is the same user's.
fn is_ours(line: &impl AsFd) -> bool {
    socket_peercred(line).is_ok_and(|peer| peer.uid == getuid())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(test: &str) -> Name {
        Name(format!("weft test {} {test}", std::process::id()))
    }

    fn access() -> Access {
        Access {
            pid: 7,
            hub: "/proc/7/fd/3".into(),
            from_pods: "https://10.238.0.1:7443".into(),
            own: None,
            no_datagrams: None,
        }
    }

    async fn dial(name: &Name) -> Option<Call> {
        let name = name.clone();
        tokio::task::spawn_blocking(move || Call::dial(&name).unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn a_mesh_ends_with_its_last_caller_who_waits_for_it() {
        let name = name("last");
        assert!(dial(&name).await.is_none());
        let listener = listen(&name).unwrap().unwrap();
        assert!(listen(&name).unwrap().is_none());

        let access = access();
        let holding = serve(listener, &access);
        let mut hanging_up = None;
        let calling = async {
            let (first, second) = (dial(&name).await.unwrap(), dial(&name).await.unwrap());
            assert_eq!(first.access(), &access);
            tokio::task::spawn_blocking(|| first.hang_up().unwrap()).await.unwrap();
            hanging_up = Some(tokio::task::spawn_blocking(|| second.hang_up().unwrap()));
        };
        let (last, ()) = tokio::join!(holding, calling);
        let second = hanging_up.unwrap();
        assert!(!second.is_finished());
        drop(last.unwrap().unwrap());
        second.await.unwrap();
        assert!(dial(&name).await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_whom_nobody_calls_ends() {
        let listener = listen(&name("nobody")).unwrap().unwrap();
        assert!(serve(listener, &access()).await.unwrap().is_none());
    }

    #[test]
    fn names_are_told_apart_however_long() {
        let urls = |last: &str| vec!["https://a-control-plane.example:7443".to_owned(), last.repeat(100)];
        let names =
            [Name::of_runs(), Name::of_demo(), Name::of_outpost(&urls("a")), Name::of_outpost(&urls("b"))];
        for (index, name) in names.iter().enumerate() {
            let address = name.address().unwrap();
            let same = names
                .iter()
                .filter(|other| other.address().unwrap().as_abstract_name() == address.as_abstract_name());
            assert_eq!(same.count(), 1, "{index}");
        }
    }
}
