//! Connections between a sidecar and the app beside it, which never leave the machine.

use socket2::SockRef;

/// The plainest one, which every kernel has and every process may use.
const PLAINEST: &[u8] = b"reno";

/// There is no network in between that could be congested. What the machine uses for those that there are may pace what it sends, by
/// timers, and looks at each acknowledgement (BBR does). A listener's connections inherit this.
pub(crate) fn spare_congestion_control(socket: SockRef<'_>) {
    // Where it cannot be had the machine's own does as well.
    let _ = socket.set_tcp_congestion(PLAINEST);
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn congestion_control(socket: SockRef<'_>) -> Vec<u8> {
        let mut name = socket.tcp_congestion().expect("a name");
        name.retain(|byte| *byte != 0);
        name
    }

    #[test]
    fn what_a_listener_takes_has_the_listeners() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        spare_congestion_control(SockRef::from(&listener));
        let _client = TcpStream::connect(listener.local_addr().expect("its address")).expect("a connection");
        let (accepted, _) = listener.accept().expect("the other end");
        assert_eq!(congestion_control(SockRef::from(&accepted)), PLAINEST);
    }
}
