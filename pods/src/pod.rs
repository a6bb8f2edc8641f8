//! A pod: a network namespace of its own with one link into the hub.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};
use std::sync::Arc;

use rustix::thread::{CapabilitySet, capabilities, configure_capability_in_ambient_set, set_capabilities};

use crate::error::{Attempt as _, Result};
use crate::hub::{Hub, port_of, v4_of, v6_of, with_prefix};
use crate::link::Links;
use crate::namespace::Namespace;
use crate::userns;

/// The user id whose traffic is never intercepted, where user ids can be told apart.
pub const SIDECAR_UID: u32 = 2102;
/// The socket mark that is never intercepted, where they cannot ("WE").
pub const SIDECAR_MARK: u32 = 0x5745;
/// The socket mark of connections to the app that the sidecar makes from its callers' own addresses ("WK").
pub const KEPT_SOURCE_MARK: u32 = 0x574b;

const LINK: &str = "eth0";

/// How a sidecar's own traffic is told from its application's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exemption {
    /// It runs under this user id.
    User(u32),
    /// It sets this mark on its sockets, as `WEFT_MARK` tells it to.
    Mark(u32),
}

impl Exemption {
    /// What is possible here: the user id, unless this process may not take it (in a user namespace of one user).
    #[must_use]
    pub fn here() -> Self {
        if userns::may_become(SIDECAR_UID) { Self::User(SIDECAR_UID) } else { Self::Mark(SIDECAR_MARK) }
    }
}

/// A network namespace with a loopback link, one link into the hub, addresses and default routes.
///
/// It is gone when the `Pod` is dropped and the last process in it ended.
#[derive(Debug)]
pub struct Pod {
    name: String,
    v4: Ipv4Addr,
    v6: Option<Ipv6Addr>,
    namespace: Namespace,
    /// A pod's link ends in the hub and would be gone with it.
    _hub: Arc<Namespace>,
}

impl Pod {
    pub(crate) fn create(hub: &Hub, name: &str) -> Result<Self> {
        let namespace = Namespace::create()?;
        let claim = |index| namespace.run(|| Links::open()?.add_pair(LINK, &port_of(index), hub.netns()))?;
        namespace.run(|| Links::open()?.set_loopback_up())??;
        let index = hub.claim(claim)?;
        let v4 = v4_of(index);
        let v6 = hub.address_v6().map(|_| v6_of(index));
        namespace.run(|| configure(hub, v4, v6))??;
        hub.attach(index)?;
        namespace.run(|| {
            let links = Links::open()?;
            links.wait_until_up(links.existing(LINK)?)
        })??;
        Ok(Self { name: name.to_owned(), v4, v6, namespace, _hub: hub.hold() })
    }

    /// The name it was given.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its IPv4 address.
    #[must_use]
    pub fn v4(&self) -> Ipv4Addr {
        self.v4
    }

    /// Its IPv6 address; none where the kernel has no IPv6.
    #[must_use]
    pub fn v6(&self) -> Option<Ipv6Addr> {
        self.v6
    }

    /// Its network namespace.
    #[must_use]
    pub fn netns(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }

    /// Does something on a thread inside the pod's network namespace; sockets opened there stay there.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.namespace.run(work)
    }

    /// Starts a program in the pod. In a user namespace it runs as the user that it was entered by, without rights.
    ///
    /// # Errors
    /// When the program cannot be started; [`Error::kind`](crate::Error::kind) says why.
    pub fn spawn(&self, command: &mut Command) -> Result<Child> {
        let what = self.starting(command);
        self.run(|| command.spawn())?.attempt(what)
    }

    /// Starts a program in the pod as its sidecar, so that interception can let its traffic through: under the
    /// sidecar's user id, or else with `WEFT_MARK` in its environment and the right to mark its sockets.
    ///
    /// # Errors
    /// When the program cannot be started; [`Error::kind`](crate::Error::kind) says why.
    pub fn spawn_sidecar(&self, command: &mut Command) -> Result<Child> {
        let what = self.starting(command);
        match Exemption::here() {
            Exemption::User(id) => self.run(|| command.uid(id).gid(id).spawn())?.attempt(what),
            Exemption::Mark(mark) => {
                command.env("WEFT_MARK", format!("{mark:#x}"));
                self.run(|| {
                    pass_on(CapabilitySet::NET_ADMIN).attempt("pass on the right to mark sockets")?;
                    command.spawn().attempt(what)
                })?
            }
        }
    }

    fn starting(&self, command: &Command) -> String {
        format!("start {} in the pod {}", command.get_program().display(), self.name)
    }
}

/// Lets the programs that the calling thread starts from now on keep one of its capabilities.
fn pass_on(capability: CapabilitySet) -> rustix::io::Result<()> {
    let mut sets = capabilities(None)?;
    sets.inheritable |= capability;
    set_capabilities(None, sets)?;
    configure_capability_in_ambient_set(capability, true)
}

/// Gives the pod's link its addresses and routes, in the calling thread's namespace.
fn configure(hub: &Hub, v4: Ipv4Addr, v6: Option<Ipv6Addr>) -> Result<()> {
    // A convenience, as in containers: any user may serve port 80. Where /proc is read-only it takes root.
    let _ = fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
    let links = Links::open()?;
    let link = links.existing(LINK)?;
    links.set_up(link, None)?;
    let addresses = [Some(IpAddr::from(v4)), v6.map(IpAddr::from)];
    for address in addresses.into_iter().flatten() {
        links.add_address(link, with_prefix(address))?;
    }
    let gateways = [Some(IpAddr::from(hub.address_v4())), hub.address_v6().map(IpAddr::from)];
    for gateway in gateways.into_iter().flatten() {
        links.add_default_route(link, gateway)?;
    }
    Ok(())
}
