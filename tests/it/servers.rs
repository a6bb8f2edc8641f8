//! Servers that speak HTTP/1 as they please: pipelined requests answered in order, answers of HTTP/1.0.

use std::io::{BufRead as _, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::time::Duration;

use weft_tests::{App, program};

use crate::in_pods;
use crate::peers::{Peers, read_head};

#[test]
fn nginx_answers_pipelined_requests_in_their_order() {
    in_pods!(nginx_answers_pipelined_requests_in_their_order, || {
        let Some(nginx) = program(&["nginx"]) else { return };
        let peers = Peers::start("server:8080");
        let http = "server { listen [::]:8080 ipv6only=off; location ~ ^/n/(.*)$ { return 200 [$1]; } }";
        let _nginx = peers.serve(crate::nginx::command(&nginx, peers.mesh.scratch(), http), 8080);
        let request = |number: usize| {
            let last = if number == 199 { "connection: close\r\n" } else { "" };
            match number % 3 {
                0 => format!("POST /n/{number} HTTP/1.1\r\nhost: server\r\ncontent-length: 5\r\n\r\nhello"),
                1 => format!("GET /n/{number} HTTP/1.1\r\nhost: server\r\n{last}\r\n"),
                _ => format!(
                    "POST /n/{number} HTTP/1.1\r\nhost: server\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
                ),
            }
        };
        let requests: String = (0..200).map(request).collect();
        let address = (peers.server.address(), 8080);
        for caller in peers.callers() {
            let answers = caller.pod.run(|| {
                let mut stream = TcpStream::connect(address).expect("a connection");
                stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
                stream.write_all(requests.as_bytes()).expect("it takes them all");
                let mut answers = String::new();
                stream.read_to_string(&mut answers).expect("the answers and an end");
                answers
            });
            let order: Vec<usize> = answers
                .split(['[', ']'])
                .skip(1)
                .step_by(2)
                .filter_map(|number| number.parse().ok())
                .collect();
            assert_eq!(order, (0..200).collect::<Vec<_>>());
            assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 200);
        }
    });
}

#[test]
fn pythons_http_server_of_http_1_0_answers_each_of_many_callers() {
    in_pods!(pythons_http_server_of_http_1_0_answers_each_of_many_callers, || {
        let (Some(_), Some(python)) = (program(&["curl"]), program(&["python3"])) else { return };
        let peers = Peers::start("server:8080");
        let page = "woven\n".repeat(50_000);
        std::fs::write(peers.mesh.scratch().join("page"), &page).expect("a page");
        let mut command = Command::new(python);
        command.args(["-m", "http.server", "--bind", "::", "8080", "--directory"]).arg(peers.mesh.scratch());
        let _app = peers.serve(command, 8080);
        for caller in peers.callers() {
            let note = "(%{http_code} %{size_download})\n";
            let told = caller.curl(&["-o", "/dev/null", "-w", note, "http://HOST:8080/page?[1-60]"]);
            assert_eq!(told, "(200 300000)\n".repeat(60), "{}", caller.host);
        }
    });
}

#[test]
fn a_client_that_has_ended_its_side_still_gets_its_answer() {
    in_pods!(a_client_that_has_ended_its_side_still_gets_its_answer, || {
        let peers = Peers::start("server:8080");
        let _app = App::serve(&peers.server, 8080, |stream| {
            let (head, mut reader) = read_head(&stream);
            let mut body = String::new();
            let _ = reader.read_line(&mut body);
            // The answer takes longer than the client's end does to arrive.
            std::thread::park_timeout(Duration::from_millis(300));
            let answer = if head.contains("/chunks") {
                format!("transfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len())
            } else {
                format!("content-length: {}\r\n\r\n{body}", body.len())
            };
            // Not said, and a moment later, it would be closed upon the next request, which nobody can send again.
            let _ =
                (&stream).write_all(format!("HTTP/1.1 200 OK\r\nconnection: close\r\n{answer}").as_bytes());
        });
        let address = (peers.server.address(), 8080);
        for caller in peers.callers() {
            for path in ["/length", "/chunks"] {
                let answer = caller.pod.run(|| {
                    let mut stream = TcpStream::connect(address).expect("a connection");
                    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
                    let request =
                        format!("POST {path} HTTP/1.1\r\nhost: server\r\ncontent-length: 6\r\n\r\nwoven\n");
                    stream.write_all(request.as_bytes()).expect("it takes the request");
                    stream.shutdown(Shutdown::Write).expect("an end");
                    let mut answer = String::new();
                    stream.read_to_string(&mut answer).expect("the answer and an end");
                    answer
                });
                assert!(
                    answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("woven\n"),
                    "{path}: {answer:?}"
                );
            }
        }
    });
}
