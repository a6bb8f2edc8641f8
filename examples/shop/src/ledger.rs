//! The ledger: a small store whose server speaks first, and the client that keeps one connection to it.
//!
//! A line protocol in the manner of SMTP or MySQL: the client says nothing before it was greeted.
//!
//! ```text
//! S: ledger 1 ready MARKER
//! C: ADD ORDER CENTS          S: OK ENTRIES TOTAL      (the same order again changes nothing)
//! C: TOTAL                    S: OK ENTRIES TOTAL
//! C: QUIT                     S: BYE
//! ```

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, anyhow, bail};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use weft_runtime::drain::DrainWatch;
use weft_runtime::task;

use crate::MARKER;
use crate::http::CALL_TIMEOUT;
use crate::listen::accept;

/// How many orders are remembered as booked.
const REMEMBERED: usize = 4096;
/// The longest line that either side reads.
const LINE_LIMIT: u64 = 512;

/// The store. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    book: Arc<Mutex<Book>>,
}

#[derive(Debug, Default)]
struct Book {
    balance: Balance,
    booked: HashSet<String>,
    oldest_first: VecDeque<String>,
}

/// What the ledger adds up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct Balance {
    pub(crate) entries: u64,
    pub(crate) total_cents: u64,
}

impl Book {
    fn add(&mut self, order: &str, cents: u64) {
        if !self.booked.insert(order.to_owned()) {
            return;
        }
        self.oldest_first.push_back(order.to_owned());
        if self.oldest_first.len() > REMEMBERED
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.booked.remove(&oldest);
        }
        self.balance.entries += 1;
        self.balance.total_cents = self.balance.total_cents.saturating_add(cents);
    }
}

impl Ledger {
    /// Serves until told to drain.
    pub async fn serve(self, listener: TcpListener, mut drain: DrainWatch) -> anyhow::Result<()> {
        loop {
            let stream = tokio::select! {
                () = drain.draining() => return Ok(()),
                stream = accept(&listener) => stream,
            };
            let (ledger, mut drain) = (self.clone(), drain.clone());
            task::spawn("ledger connection", async move {
                tokio::select! {
                    () = drain.draining() => {}
                    served = ledger.converse(stream) => {
                        if let Err(error) = served {
                            tracing::debug!("a ledger connection ended early: {error:#}");
                        }
                    }
                }
            });
        }
    }

    async fn converse(&self, stream: TcpStream) -> anyhow::Result<()> {
        stream.set_nodelay(true)?;
        let mut stream = BufReader::new(stream);
        stream.write_all(format!("ledger 1 ready {MARKER}\r\n").as_bytes()).await?;
        while let Some(line) = read_line(&mut stream).await? {
            let (answer, last) = match self.answer(&line) {
                Ok(Some(balance)) => (format!("OK {} {}\r\n", balance.entries, balance.total_cents), false),
                Ok(None) => ("BYE\r\n".to_owned(), true),
                Err(error) => (format!("ERR {error}\r\n"), false),
            };
            stream.write_all(answer.as_bytes()).await?;
            if last {
                break;
            }
        }
        Ok(())
    }

    fn answer(&self, line: &str) -> anyhow::Result<Option<Balance>> {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        let words: Vec<&str> = line.split(' ').collect();
        match *words {
            ["ADD", order, cents] if !order.is_empty() => {
                book.add(order, cents.parse().with_context(|| format!("{cents:?} is no amount"))?);
            }
            ["TOTAL"] => {}
            ["QUIT"] => return Ok(None),
            _ => bail!("expected ADD ORDER CENTS, TOTAL or QUIT"),
        }
        Ok(Some(book.balance))
    }
}

/// A client that opens one connection when it is first needed and keeps it.
#[derive(Debug)]
pub struct LedgerClient {
    address: String,
    connection: tokio::sync::Mutex<Option<BufReader<TcpStream>>>,
}

impl LedgerClient {
    /// The ledger at `HOST:PORT`.
    pub fn new(address: String) -> Self {
        Self { address, connection: tokio::sync::Mutex::default() }
    }

    /// Books an order; once, however often it is asked.
    pub(crate) async fn add(&self, order: &str, cents: u64) -> anyhow::Result<Balance> {
        if order.is_empty() || !order.bytes().all(|byte| byte.is_ascii_graphic()) {
            bail!("{order:?} is no order");
        }
        self.ask(&format!("ADD {order} {cents}\r\n")).await
    }

    /// The balance.
    pub(crate) async fn total(&self) -> anyhow::Result<Balance> {
        self.ask("TOTAL\r\n").await
    }

    /// Asks on the kept connection, and once more on a new one where that has gone.
    async fn ask(&self, line: &str) -> anyhow::Result<Balance> {
        let asking = async {
            let mut slot = self.connection.lock().await;
            if let Some(mut kept) = slot.take()
                && let Ok(answer) = exchange(&mut kept, line).await
            {
                *slot = Some(kept);
                return anyhow::Ok(answer);
            }
            let mut fresh = self.connect().await?;
            let answer = exchange(&mut fresh, line).await?;
            *slot = Some(fresh);
            Ok(answer)
        };
        let answer = tokio::time::timeout(CALL_TIMEOUT, asking).await.map_err(|_| {
            anyhow!("the ledger at {} gave no answer within {CALL_TIMEOUT:?}", self.address)
        })??;
        parse_balance(&answer).ok_or_else(|| anyhow!("the ledger at {} answered {answer:?}", self.address))
    }

    async fn connect(&self) -> anyhow::Result<BufReader<TcpStream>> {
        let stream = TcpStream::connect(&self.address)
            .await
            .with_context(|| format!("connecting to the ledger at {}", self.address))?;
        stream.set_nodelay(true)?;
        let mut stream = BufReader::new(stream);
        match read_line(&mut stream).await?.as_deref() {
            Some(greeting) if greeting.starts_with("ledger 1 ready") => Ok(stream),
            other => bail!("the ledger at {} greeted with {other:?}", self.address),
        }
    }
}

async fn exchange(stream: &mut BufReader<TcpStream>, line: &str) -> anyhow::Result<String> {
    stream.write_all(line.as_bytes()).await?;
    read_line(stream).await?.ok_or_else(|| anyhow!("the connection was closed"))
}

/// A line without its end; none at the end of the stream.
async fn read_line(stream: &mut BufReader<TcpStream>) -> anyhow::Result<Option<String>> {
    let mut line = String::new();
    if stream.take(LINE_LIMIT).read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    let line = line.strip_suffix('\n').ok_or_else(|| anyhow!("a line without an end"))?;
    Ok(Some(line.strip_suffix('\r').unwrap_or(line).to_owned()))
}

fn parse_balance(answer: &str) -> Option<Balance> {
    let (entries, total) = answer.strip_prefix("OK ")?.split_once(' ')?;
    Some(Balance { entries: entries.parse().ok()?, total_cents: total.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(ledger: &Ledger, line: &str, expected: Result<Option<(u64, u64)>, ()>) {
        let answer = ledger.answer(line).map_err(|_| ());
        let expected =
            expected.map(|balance| balance.map(|(entries, total_cents)| Balance { entries, total_cents }));
        assert_eq!(answer, expected, "{line:?}");
    }

    #[test]
    fn the_ledger_adds_up_and_books_an_order_once() {
        let ledger = Ledger::default();
        check(&ledger, "TOTAL", Ok(Some((0, 0))));
        check(&ledger, "ADD a-1 250", Ok(Some((1, 250))));
        check(&ledger, "ADD a-1 250", Ok(Some((1, 250))));
        check(&ledger, "ADD a-2 50", Ok(Some((2, 300))));
        check(&ledger, "QUIT", Ok(None));
        for bad in ["", "ADD", "ADD a-3", "ADD a-3 -1", "ADD a-3 x", "ADD  5", "TOTAL 1", "GET / HTTP/1.1"] {
            check(&ledger, bad, Err(()));
        }
        check(&ledger, "TOTAL", Ok(Some((2, 300))));
    }

    #[test]
    fn only_so_many_orders_are_remembered() {
        let mut book = Book::default();
        for order in 0..2 * REMEMBERED {
            book.add(&order.to_string(), 1);
        }
        assert_eq!((book.booked.len(), book.oldest_first.len()), (REMEMBERED, REMEMBERED));
    }
}
