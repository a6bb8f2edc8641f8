//! Kernel calls that no safe crate offers. Every `unsafe` block of the workspace is here, with its reason.

use std::io;
use std::mem::{MaybeUninit, offset_of};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// How many bytes of what was sent on a TCP connection the other end's kernel has acknowledged, since it was opened
/// (`TCP_INFO`, RFC 4898 `tcpEStatsAppHCThruOctetsAcked`). The kernel counts the opening itself as one.
///
/// # Errors
/// `socket` is none of TCP, or the kernel is older than 4.1 and does not say.
pub fn bytes_acked(socket: &impl AsFd) -> io::Result<u64> {
    tcp_info(socket).map(|info| info.tcpi_bytes_acked)
}

/// For how long nothing has come on a TCP connection, to a few milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Silence {
    /// No bytes.
    pub of_bytes: Duration,
    /// No segment that acknowledges anything, which the other end's farewell does too.
    pub of_segments: Duration,
}

/// Asks how long the other end of a TCP connection has been silent (`TCP_INFO`).
///
/// # Errors
/// `socket` is none of TCP.
pub fn silence(socket: &impl AsFd) -> io::Result<Silence> {
    let info = tcp_info(socket)?;
    Ok(Silence {
        of_bytes: Duration::from_millis(info.tcpi_last_data_recv.into()),
        of_segments: Duration::from_millis(info.tcpi_last_ack_recv.into()),
    })
}

fn tcp_info(socket: &impl AsFd) -> io::Result<libc::tcp_info> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).map_err(io::Error::other)?;
    #[expect(unsafe_code, reason = "getsockopt takes a pointer to the option's value")]
    // SAFETY: `info` is writable for `length` bytes, and the kernel writes no more than that. The descriptor is borrowed
    // from `socket`, so it stays open throughout.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let needed = offset_of!(libc::tcp_info, tcpi_bytes_acked) + size_of::<u64>();
    if usize::try_from(length).map_err(io::Error::other)? < needed {
        return Err(io::ErrorKind::Unsupported.into());
    }
    #[expect(unsafe_code, reason = "what the kernel did not write is still zero")]
    // SAFETY: `tcp_info` is made of integers alone, for which any bytes are a value, and all of it was zeroed before the
    // kernel wrote into it.
    let info = unsafe { info.assume_init() };
    Ok(info)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    #[test]
    fn what_the_other_end_has_received_is_acknowledged() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let opened = bytes_acked(&client).unwrap();
        assert!(opened <= 1, "{opened}");
        client.write_all(b"question").unwrap();
        server.read_exact(&mut [0; 8]).unwrap();
        server.write_all(b"answer").unwrap();
        client.read_exact(&mut [0; 6]).unwrap();
        assert_eq!(bytes_acked(&client).unwrap(), opened + 8);
    }

    #[test]
    fn what_reached_a_closed_socket_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        drop(listener.accept().unwrap());
        assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
        let before = bytes_acked(&client).unwrap();
        client.write_all(b"too late").unwrap();
        // The second one fails when the first has been refused.
        while client.write_all(b"too late").is_ok() {}
        assert_eq!(bytes_acked(&client).unwrap(), before);
    }

    #[test]
    fn a_farewell_ends_the_silence_of_segments_but_not_of_bytes() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        server.write_all(b"answer").unwrap();
        client.read_exact(&mut [0; 6]).unwrap();
        let long = Duration::from_millis(100);
        while silence(&client).unwrap().of_bytes < long {}
        assert!(silence(&client).unwrap().of_segments >= long);
        drop(server);
        assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
        let after = silence(&client).unwrap();
        assert!(after.of_bytes >= long && after.of_segments < after.of_bytes, "{after:?}");
    }

    #[test]
    fn other_sockets_have_no_such_count() {
        let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(bytes_acked(&datagrams).is_err() && silence(&datagrams).is_err());
    }
}
