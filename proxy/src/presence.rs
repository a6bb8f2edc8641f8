//! Whether the app is still there when we are told to end: somebody besides us has a socket in our network.
//!
//! The kernel lists the TCP sockets of a network namespace, whoever owns them, each with its inode; ours are those that our own
//! open files lead to. What is nobody's any more, such as a connection in TIME_WAIT, has none.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader};
use std::time::Duration;

/// How often it is looked: nothing without rights over the network is told when a socket goes.
const LOOK: Duration = Duration::from_millis(200);

/// The tables of a network namespace; the second is not there without IPv6.
const TABLES: [&str; 2] = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];

/// Returns when nobody besides us has a socket here, or where that cannot be found out.
pub(crate) async fn app_is_gone() {
    loop {
        match others_are_here() {
            Ok(true) => tokio::time::sleep(LOOK).await,
            Ok(false) => return,
            Err(error) => {
                tracing::warn!(%error, "cannot tell whether the app is still there");
                return;
            }
        }
    }
}

fn others_are_here() -> io::Result<bool> {
    let own = own_sockets()?;
    for table in TABLES {
        let lines = match File::open(table) {
            Ok(file) => BufReader::new(file).lines(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for line in lines.skip(1) {
            if inode(&line?).is_some_and(|inode| !own.contains(&inode)) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// The inodes of our own sockets.
fn own_sockets() -> io::Result<HashSet<u64>> {
    let mut own = HashSet::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        // What was closed meanwhile leads nowhere.
        let Ok(target) = fs::read_link(entry?.path()) else { continue };
        let number = target.to_str().and_then(|target| target.strip_prefix("socket:[")?.strip_suffix(']'));
        own.extend(number.and_then(|number| number.parse::<u64>().ok()));
    }
    Ok(own)
}

/// The inode of a line of a table (proc_net_tcp(5)); none: the socket is nobody's.
fn inode(line: &str) -> Option<u64> {
    line.split_ascii_whitespace().nth(9)?.parse().ok().filter(|inode| *inode != 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn a_socket_is_somebodys_by_its_inode() {
        let listens = "   0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 23456 1 0000000000000000 100 0 0 10 0";
        assert_eq!(inode(listens), Some(23456));
        let waits = "   1: 0100007F:1F90 0100007F:9C40 06 00000000:00000000 03:00000F3C 00000000     0        0 0 3 0000000000000000";
        assert_eq!(inode(waits), None);
        assert_eq!(inode(""), None);
    }

    #[test]
    fn our_own_sockets_are_known_while_they_are_open() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let inode =
            File::from(std::os::fd::OwnedFd::from(listener.try_clone().unwrap())).metadata().unwrap().ino();
        assert!(own_sockets().unwrap().contains(&inode));
        let listed = TABLES.iter().any(|table| {
            let table = fs::read_to_string(table).unwrap_or_default();
            table.lines().any(|line| super::inode(line) == Some(inode))
        });
        assert!(listed);
        drop(listener);
        assert!(!own_sockets().unwrap().contains(&inode));
    }
}
