//! Small apps inside pods: what a sidecar serves in a test.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::SidecarPod;

/// A server whose threads live outside the pod and whose sockets live inside.
#[derive(Debug)]
pub struct App {
    connections: Arc<AtomicU64>,
}

impl App {
    /// An HTTP/1.1 server that answers every request with its own head: the request line and headers as they arrived,
    /// a blank line, and the body.
    pub fn echo(pod: &SidecarPod, port: u16) -> Self {
        Self::serve(pod, port, |stream| {
            let _ = echo(stream, "");
        })
    }

    /// The same, which says in the field `served-by` who it is.
    pub fn echo_as(pod: &SidecarPod, port: u16, name: &'static str) -> Self {
        Self::serve(pod, port, move |stream| {
            let _ = echo(stream, name);
        })
    }

    /// A server that says `greeting` before it is asked anything, then repeats each line it gets.
    pub fn greeter(pod: &SidecarPod, port: u16, greeting: &'static str) -> Self {
        Self::serve(pod, port, move |mut stream| {
            let _ = stream.write_all(greeting.as_bytes());
            let Ok(reader) = stream.try_clone() else { return };
            for line in BufReader::new(reader).lines().map_while(Result::ok) {
                if stream.write_all(format!("{line}\n").as_bytes()).is_err() {
                    return;
                }
            }
        })
    }

    /// Any server: `handle` has a connection to itself, on a thread of its own.
    pub fn serve(pod: &SidecarPod, port: u16, handle: impl Fn(TcpStream) + Send + Clone + 'static) -> Self {
        let address = SocketAddr::from(([0; 16], port));
        let listener = pod.run(|| TcpListener::bind(address)).expect("a free port in the pod");
        let connections = Arc::new(AtomicU64::new(0));
        let counted = connections.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                counted.fetch_add(1, Ordering::Relaxed);
                let _ = stream.set_nodelay(true);
                let handle = handle.clone();
                std::thread::spawn(move || handle(stream));
            }
        });
        Self { connections }
    }

    /// How many connections it has been given.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }
}

fn echo(stream: TcpStream, name: &str) -> std::io::Result<()> {
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    loop {
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
            head.push_str(&line);
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let name = if name.is_empty() { String::new() } else { format!("served-by: {name}\r\n") };
        let start = format!("HTTP/1.1 200 OK\r\n{name}content-length: {}\r\n\r\n{head}", head.len() + length);
        writer.write_all(&[start.as_bytes(), &body].concat())?;
    }
}
