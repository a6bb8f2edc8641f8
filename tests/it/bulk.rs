//! Bodies and streams of any size: in constant memory, no faster than they are read, and both ways.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use weft_tests::{App, SidecarPod, eventually, program};

use crate::in_pods;
use crate::peers::Peers;

const BODY: u64 = 256 << 20;

/// What passes between two pods of the mesh.
const LARGE: u64 = 1 << 30;

/// What a sidecar may grow by, at its peak, while a body of any size passes.
const AT_MOST_MORE: u64 = 16 << 20;

/// The most memory that a sidecar has ever had, in bytes.
fn peak(pod: &mut SidecarPod) -> u64 {
    let path = format!("/proc/{}/status", pod.sidecar().id());
    let status = std::fs::read_to_string(path).expect("a running sidecar");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its peak");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

/// Reads a request's head, byte by byte, so that not one of its body is taken.
fn read_head(mut stream: &TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
        head.extend_from_slice(&byte);
    }
    String::from_utf8_lossy(&head).into_owned()
}

/// Sends `length` bytes, counting them.
fn send(mut stream: &TcpStream, length: u64, sent: &AtomicU64) -> std::io::Result<()> {
    let piece = vec![b'x'; 1 << 16];
    for _ in 0..length >> 16 {
        stream.write_all(&piece)?;
        sent.fetch_add(1 << 16, Ordering::Relaxed);
    }
    Ok(())
}

fn read_to_end(mut stream: &TcpStream, most: u64) -> u64 {
    let (mut read, mut piece) = (0, vec![0; 1 << 16]);
    while read < most
        && let Ok(length @ 1..) = stream.read(&mut piece)
    {
        read += length as u64;
    }
    read
}

#[test]
fn bodies_of_a_gibibyte_pass_each_way_in_constant_memory() {
    in_pods!(bodies_of_a_gibibyte_pass_each_way_in_constant_memory, || {
        if program(&["curl"]).is_none() {
            return;
        }
        let mut peers = Peers::start("server:8080,server:9000");
        // The path says how much: `/1024`.
        let _http = App::serve(&peers.server, 8080, |stream| {
            let head = read_head(&stream);
            let length = head.split([' ', '/']).find_map(|word| word.parse().ok()).unwrap_or(BODY);
            if head.starts_with("GET") {
                let _ = write!(
                    &stream,
                    "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
                );
                let _ = send(&stream, length, &AtomicU64::new(0));
            } else {
                let read = read_to_end(&stream, length).to_string();
                let length = read.len();
                let _ = write!(
                    &stream,
                    "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{read}"
                );
            }
        });
        // Bytes: whatever comes is sent back.
        let _bytes = App::serve(&peers.server, 9000, |stream| {
            let _ = std::io::copy(&mut &stream, &mut &stream);
            let _ = stream.shutdown(Shutdown::Write);
        });
        let upload = |length: u64| {
            let upload = peers.mesh.scratch().join(format!("upload-{length}"));
            std::fs::File::create(&upload).and_then(|file| file.set_len(length)).expect("a file of holes");
            upload.display().to_string()
        };
        let uploads = [upload(LARGE), upload(BODY)];
        // What a first request needs is not what a large one needs.
        let small = ["-r", "0-1", "-o", "/dev/null", "http://HOST:8080/", "--max-filesize", "1"];
        for caller in peers.callers() {
            let _ = caller.pod.output(caller.curl_command(&small));
        }
        let before = [peak(&mut peers.server), peak(&mut peers.client)];

        for ((caller, length), upload) in peers.callers().into_iter().zip([LARGE, BODY]).zip(&uploads) {
            let url = format!("http://HOST:8080/{length}");
            let got = caller.curl(&["-o", "/dev/null", "-w", "%{size_download}", &url]);
            assert_eq!(got, length.to_string());
            assert_eq!(caller.curl(&["-H", "Expect:", "-T", upload, &url]), length.to_string());
        }
        let address = (peers.server.address(), 9000);
        let echoed = peers.client.run(|| {
            let stream = TcpStream::connect(address).expect("a connection");
            stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    send(&stream, BODY, &AtomicU64::new(0)).expect("it takes all");
                    stream.shutdown(Shutdown::Write).expect("an end");
                });
                read_to_end(&stream, u64::MAX)
            })
        });
        assert_eq!(echoed, BODY);

        let after = [peak(&mut peers.server), peak(&mut peers.client)];
        let grown = [after[0] - before[0], after[1] - before[1]];
        assert!(
            grown.iter().all(|grown| *grown < AT_MOST_MORE),
            "server's and client's sidecar grew by {grown:?}"
        );
    });
}

#[test]
fn a_reader_that_pauses_stops_the_writer_and_others_do_not_notice() {
    in_pods!(a_reader_that_pauses_stops_the_writer_and_others_do_not_notice, || {
        if program(&["curl"]).is_none() {
            return;
        }
        let mut peers = Peers::start("server:8080");
        let sent = Arc::new(AtomicU64::new(0));
        let counted = sent.clone();
        let _app = App::serve(&peers.server, 8080, move |stream| {
            let head = read_head(&stream);
            if head.starts_with("GET /large") {
                let _ =
                    write!(&stream, "HTTP/1.1 200 OK\r\ncontent-length: {BODY}\r\nconnection: close\r\n\r\n");
                let _ = send(&stream, BODY, &counted);
            } else {
                let _ =
                    write!(&stream, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok");
            }
        });
        let before = [peak(&mut peers.server), peak(&mut peers.client)];
        let address = (peers.server.address(), 8080);
        let slow = peers.client.run(|| {
            let mut stream = TcpStream::connect(address).expect("a connection");
            stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
            stream
                .write_all(b"GET /large HTTP/1.1\r\nhost: server\r\nconnection: close\r\n\r\n")
                .expect("a request");
            stream
        });
        // The writer has been stopped when what it has sent no longer grows.
        let mut last = (0, 0);
        eventually("the writer is stopped", Duration::from_secs(30), || {
            std::thread::park_timeout(Duration::from_millis(100));
            let now = sent.load(Ordering::Relaxed);
            last = if now > 0 && now == last.0 { (now, last.1 + 1) } else { (now, 0) };
            last.1 == 5
        });
        // Kernels' buffers on the way are most of it: three connections, up to 6 MiB to send and to read each.
        assert!(last.0 < 64 << 20, "sent into the void: {}", last.0);
        let answer = peers.meshed().curl(&["-w", " %{time_total}", "http://HOST:8080/"]);
        let (body, took) = answer.split_once(' ').expect("two words");
        assert!(body == "ok" && took.parse::<f64>().expect("seconds") < 1.0, "{answer}");
        let read = read_to_end(&slow, u64::MAX);
        assert!(read > BODY, "all of it, once it is read: {read}");
        let after = [peak(&mut peers.server), peak(&mut peers.client)];
        let grown = [after[0] - before[0], after[1] - before[1]];
        assert!(grown.iter().all(|grown| *grown < AT_MOST_MORE), "{grown:?}");
    });
}

#[test]
fn single_bytes_are_not_held_back() {
    in_pods!(single_bytes_are_not_held_back alone, || {
        let peers = Peers::start("server:9000");
        // Answers every second byte, so that one byte is always written while another is not yet acknowledged.
        let _app = App::serve(&peers.server, 9000, |mut stream| {
            let mut pair = [0; 2];
            while stream.read_exact(&mut pair).is_ok() && stream.write_all(&pair[..1]).is_ok() {}
        });
        let address = (peers.server.address(), 9000);
        for caller in peers.callers() {
            let mut took = caller.pod.run(|| {
                let mut stream = TcpStream::connect(address).expect("a connection");
                stream.set_nodelay(true).expect("no delay of our own");
                stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
                let round = |_| {
                    let begun = Instant::now();
                    stream.write_all(b"a").expect("the first");
                    stream.write_all(b"b").expect("the second");
                    stream.read_exact(&mut [0]).expect("an answer");
                    begun.elapsed()
                };
                (0..200).map(round).collect::<Vec<_>>()
            });
            took.sort();
            // A byte that waits for an acknowledgement waits for 40 ms.
            assert!(
                took[took.len() / 2] < Duration::from_millis(10),
                "half of them took {:?}",
                took[took.len() / 2]
            );
        }
    });
}
