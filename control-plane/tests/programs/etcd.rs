//! A real etcd for tests: one member or several, at addresses that nobody else has.
//!
//! All of 127/8 is this machine: each process takes an address that is made of its own number, and on it counts ports up. Peers
//! speak over Unix sockets in the cluster's folder.

use std::env;
use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long etcd may take to answer on a busy machine.
const START: Duration = Duration::from_secs(60);

/// Members that know each other; killed when dropped.
#[derive(Debug)]
pub(crate) struct Etcd {
    members: Vec<Member>,
    folder: TempDir,
}

#[derive(Debug)]
struct Member {
    address: SocketAddr,
    arguments: Vec<String>,
    child: Option<Child>,
}

impl Etcd {
    /// So many members with more arguments, made from the cluster's folder and the members' addresses; none where etcd is not
    /// installed, which is said, or refused.
    pub(crate) fn start(
        members: usize,
        extra: impl FnOnce(&Path, &[SocketAddr]) -> Vec<String>,
    ) -> Option<Self> {
        if Command::new("etcd").arg("--version").output().is_err() {
            let skipped = "skipped: there is no etcd; apt-get install etcd-server";
            assert!(env::var_os("WEFT_REFUSE_SKIPS").is_none(), "skipping is refused: {skipped}");
            eprintln!("{skipped}");
            return None;
        }
        let folder = TempDir::new().unwrap();
        let cluster: Vec<_> = (0..members).map(|n| format!("m{n}=unix://peer:{n}")).collect();
        let addresses: Vec<_> = (0..members).map(|_| address()).collect();
        let extra = extra(folder.path(), &addresses);
        let scheme = if extra.iter().any(|flag| flag.starts_with("--cert-file")) { "https" } else { "http" };
        let member = |(n, address): (usize, SocketAddr)| {
            let client = format!("{scheme}://{address}");
            let arguments = [
                format!("--name=m{n}"),
                format!("--data-dir={}", folder.path().join(format!("m{n}")).display()),
                format!("--listen-client-urls={client}"),
                format!("--advertise-client-urls={client}"),
                format!("--listen-peer-urls=unix://peer:{n}"),
                format!("--initial-advertise-peer-urls=unix://peer:{n}"),
                format!("--initial-cluster={}", cluster.join(",")),
                "--logger=zap".to_owned(),
            ];
            let arguments = arguments.into_iter().chain(extra.iter().cloned()).collect();
            Member { address, arguments, child: None }
        };
        let mut etcd = Self { members: addresses.into_iter().enumerate().map(member).collect(), folder };
        for n in 0..members {
            etcd.start_member(n);
        }
        for member in &etcd.members {
            member.wait();
        }
        Some(etcd)
    }

    /// Starts a member, again after [`Self::kill`].
    pub(crate) fn start_member(&mut self, n: usize) {
        let log = File::options().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        let member = &mut self.members[n];
        let mut command = Command::new("etcd");
        command.args(&member.arguments).current_dir(self.folder.path()).stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        member.child = Some(command.spawn().expect("etcd starts"));
    }

    /// Ends a member without warning.
    pub(crate) fn kill(&mut self, n: usize) {
        let mut child = self.members[n].child.take().expect("a running member");
        child.kill().unwrap();
        child.wait().unwrap();
        // What a killed process leaves is in its successor's way.
        let _ = fs::remove_file(self.folder.path().join(format!("peer:{n}")));
    }

    /// `HOST:PORT,...`.
    pub(crate) fn endpoints(&self) -> String {
        let addresses: Vec<_> = self.members.iter().map(|member| member.address.to_string()).collect();
        addresses.join(",")
    }

    /// Runs etcdctl.
    pub(crate) fn control(&self, arguments: &[&str]) -> io::Result<String> {
        let output = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints={}", self.endpoints()))
            .args(arguments)
            .output()?;
        if !output.status.success() {
            return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// A folder that ends with it.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Member {
    fn wait(&self) {
        let begun = Instant::now();
        while TcpStream::connect(self.address).is_err() {
            assert!(begun.elapsed() < START, "etcd does not listen on {}", self.address);
            std::thread::yield_now();
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for child in self.members.iter_mut().filter_map(|member| member.child.as_mut()) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// 127.64.0.0/10 has as many addresses as there are processes.
fn address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(2379);
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    let host = Ipv4Addr::new(127, 64 | (high & 0x3f), middle, low);
    SocketAddr::new(IpAddr::V4(host), NEXT.fetch_add(1, Ordering::Relaxed))
}
