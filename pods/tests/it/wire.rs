//! Listeners and calls in pods, each with a deadline.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use weft_pods::Pod;

/// Far longer than anything takes that works.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);
/// Long enough for what has to fail.
const PATIENCE: Duration = Duration::from_secs(2);
const GREETING: &[u8] = b"hello";

/// Listens on the wildcard of both families, as a sidecar does.
pub(crate) fn listen(pod: &Pod, port: u16) -> TcpListener {
    pod.run(|| listen_here(port, pod.v6().is_some())).unwrap()
}

pub(crate) fn listen_here(port: u16, v6: bool) -> TcpListener {
    let any: IpAddr = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let listener = TcpListener::bind((any, port)).unwrap();
    SockRef::from(&listener).set_read_timeout(Some(DEADLINE)).unwrap();
    listener
}

/// Calls from a pod, with a socket mark where one is given.
pub(crate) fn call(pod: &Pod, to: SocketAddr, mark: Option<u32>) -> std::io::Result<TcpStream> {
    pod.run(|| dial(to, mark)).unwrap()
}

pub(crate) fn dial(to: SocketAddr, mark: Option<u32>) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    mark.map_or(Ok(()), |mark| socket.set_mark(mark))?;
    socket.connect_timeout(&to.into(), PATIENCE)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(DEADLINE))?;
    Ok(stream)
}

/// A call arrives at a listener, and bytes pass both ways; returns where it was going before any redirection.
pub(crate) fn arrives(listener: &TcpListener, mut caller: TcpStream) -> Option<SocketAddr> {
    let (mut accepted, _) = listener.accept().expect("nothing arrived");
    accepted.set_read_timeout(Some(DEADLINE)).unwrap();
    caller.write_all(GREETING).unwrap();
    echo(&mut accepted);
    let mut answer = [0; GREETING.len()];
    caller.read_exact(&mut answer).unwrap();
    assert_eq!(answer, GREETING);
    original_destination(&accepted)
}

pub(crate) fn echo(stream: &mut TcpStream) {
    let mut greeting = [0; GREETING.len()];
    stream.read_exact(&mut greeting).unwrap();
    stream.write_all(&greeting).unwrap();
}

pub(crate) fn greet(stream: &mut TcpStream) {
    stream.write_all(GREETING).unwrap();
    let mut answer = [0; GREETING.len()];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, GREETING);
}

/// What the sidecar asks the kernel: `SO_ORIGINAL_DST` of the family that the packets have, whichever the socket has.
fn original_destination(stream: &TcpStream) -> Option<SocketAddr> {
    let socket = SockRef::from(stream);
    let v4 = match stream.peer_addr().unwrap().ip() {
        IpAddr::V4(_) => true,
        IpAddr::V6(address) => address.to_ipv4_mapped().is_some(),
    };
    let address = if v4 { socket.original_dst_v4() } else { socket.original_dst_v6() };
    address.ok()?.as_socket()
}

/// Asks a DNS server (or who poses as one) by UDP; the connected socket takes an answer only from whom it asked.
pub(crate) fn ask(pod: &Pod, server: SocketAddr, sidecar: &UdpSocket) {
    sidecar.set_read_timeout(Some(DEADLINE)).unwrap();
    let question = pod
        .run(|| {
            let any: IpAddr =
                if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            let socket = UdpSocket::bind((any, 0)).unwrap();
            socket.connect(server).unwrap();
            socket.send(GREETING).unwrap();
            socket
        })
        .unwrap();
    let mut bytes = [0; 64];
    let (len, from) =
        sidecar.recv_from(&mut bytes).unwrap_or_else(|error| panic!("{server} is not redirected: {error}"));
    sidecar.send_to(&bytes[..len], from).unwrap();
    question.set_read_timeout(Some(DEADLINE)).unwrap();
    let len = question.recv(&mut bytes).unwrap_or_else(|error| panic!("no answer from {server}: {error}"));
    assert_eq!(&bytes[..len], GREETING);
}
