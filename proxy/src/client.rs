//! `weft-proxy await` and `weft-proxy shutdown`: a few words with the sidecar beside us.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// How often readiness is asked for.
const INTERVAL: Duration = Duration::from_millis(100);

/// How long one answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Waits until the sidecar is ready.
pub(crate) async fn wait_until_ready(admin: &str, limit: Duration) -> anyhow::Result<()> {
    let address = reachable(admin)?;
    let deadline = Instant::now() + limit;
    let mut last = "it did not answer".to_owned();
    loop {
        match timeout_at(deadline, ask(address, "GET", "/ready")).await {
            Ok(Ok((200, _))) => return Ok(()),
            Ok(Ok((_, reason))) => last = reason,
            Ok(Err(error)) => last = error.to_string(),
            Err(_) => bail!("the sidecar at {address} is not ready after {limit:?}: {last}"),
        }
        sleep(INTERVAL).await;
    }
}

/// Tells the sidecar to drain and exit.
pub(crate) async fn shut_down(admin: &str) -> anyhow::Result<()> {
    let address = reachable(admin)?;
    let answer = timeout(ANSWER_LIMIT, ask(address, "POST", "/shutdown")).await;
    match answer.with_context(|| format!("the sidecar at {address} did not answer"))? {
        Ok((202, _)) => Ok(()),
        Ok((status, reason)) => bail!("the sidecar at {address} answered {status}: {reason}"),
        Err(error) => Err(error).with_context(|| format!("cannot reach the sidecar at {address}")),
    }
}

/// The first address of a list, from here: what listens everywhere is reached on loopback.
fn reachable(admin: &str) -> anyhow::Result<SocketAddr> {
    let first = admin.split(',').next().unwrap_or_default().trim();
    let address: SocketAddr =
        first.parse().with_context(|| format!("{first:?} is not of the form ADDRESS:PORT (--admin-addr)"))?;
    let ip = match address.ip() {
        IpAddr::V4(v4) if v4.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        // A listener on [::] takes IPv4 too, and loopback has an IPv4 address in every pod.
        IpAddr::V6(v6) if v6.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        other => other,
    };
    Ok(SocketAddr::new(ip, address.port()))
}

/// The status and the body of an answer.
async fn ask(address: SocketAddr, method: &str, path: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(64 << 10).read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.trim().to_owned());
    Ok((status.ok_or(io::ErrorKind::InvalidData)?, body.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_listens_everywhere_is_reached_on_loopback() {
        for (admin, expected) in [
            ("0.0.0.0:4191", "127.0.0.1:4191"),
            ("[::]:4191", "127.0.0.1:4191"),
            ("10.0.0.1:1,[::]:2", "10.0.0.1:1"),
        ] {
            assert_eq!(reachable(admin).unwrap(), expected.parse().unwrap());
        }
        assert!(reachable("4191").is_err());
    }
}
