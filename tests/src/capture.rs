//! Every byte that crosses the links of a namespace, as a packet socket sees it.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

/// `ETH_P_ALL`: packets of every protocol.
const EVERY_PROTOCOL: u16 = 0x0003;

/// A capture in progress. At most 64 MiB are kept.
#[derive(Debug)]
pub struct Capture {
    stop: Arc<AtomicBool>,
    reader: JoinHandle<Vec<u8>>,
}

impl Capture {
    /// Starts capturing on every link of the calling thread's network namespace.
    pub fn start() -> Self {
        let protocol = Protocol::from(i32::from(EVERY_PROTOCOL.to_be()));
        let mut socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol)).expect("a packet socket");
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
        socket.set_recv_buffer_size(8 << 20).expect("a large buffer");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let reader = std::thread::spawn(move || {
            let (mut seen, mut packet) = (Vec::new(), vec![0; 1 << 16]);
            while !stopped.load(Ordering::Relaxed) && seen.len() < 64 << 20 {
                if let Ok(length) = socket.read(&mut packet) {
                    seen.extend_from_slice(&packet[..length]);
                }
            }
            seen
        });
        Self { stop, reader }
    }

    /// Ends it and hands over what was seen.
    pub fn finish(self) -> Vec<u8> {
        self.stop.store(true, Ordering::Relaxed);
        self.reader.join().expect("the capture")
    }
}
