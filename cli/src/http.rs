//! A question or an order by HTTP/1.1 from inside a pod, for probes, metrics and a sidecar's leave.

use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::mesh::Resident;

const TIMEOUT: Duration = Duration::from_secs(5);
/// The largest page that is read; a sidecar's metrics are some tens of kilobytes.
const PAGE_LIMIT: u64 = 8 << 20;

/// Gets a page: its status and body.
pub(crate) async fn get(from: &Resident, to: &str, path: &str) -> anyhow::Result<(u16, String)> {
    ask(from, to, "GET", path).await
}

/// Orders something, without a body; what is answered.
pub(crate) async fn post(from: &Resident, to: &str, path: &str) -> anyhow::Result<(u16, String)> {
    ask(from, to, "POST", path).await
}

async fn ask(from: &Resident, to: &str, method: &str, path: &str) -> anyhow::Result<(u16, String)> {
    let exchange = async {
        let mut stream = from.connect(to).await?;
        // HTTP/1.0: the answer ends with the connection and is not chunked.
        stream.write_all(format!("{method} {path} HTTP/1.0\r\nHost: {to}\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.take(PAGE_LIMIT).read_to_string(&mut answer).await?;
        parse(&answer)
    };
    timeout(TIMEOUT, exchange)
        .await
        .with_context(|| format!("{to}{path} gave no answer within {TIMEOUT:?}"))?
}

fn parse(answer: &str) -> anyhow::Result<(u16, String)> {
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { bail!("the answer ended early") };
    let mut words = head.strip_prefix("HTTP/1.").unwrap_or_default().split([' ', '\r']);
    let status = words.nth(1).and_then(|status| status.parse().ok());
    Ok((status.context("the answer is not HTTP")?, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_a_status_and_a_body() {
        assert_eq!(parse("HTTP/1.1 503 No\r\na: b\r\n\r\nnot ready").unwrap(), (503, "not ready".to_owned()));
        assert_eq!(parse("HTTP/1.1 200\r\n\r\n").unwrap(), (200, String::new()));
        for bad in ["", "HTTP/1.1 200 OK\r\n", "ledger 1 ready\r\n\r\n"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
