//! Questions to sidecars, and their answers, by way of the stream that each keeps open.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use weft_core::model::QualifiedName;
use weft_proto::v1::{self, ask::What};

/// For an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Questions to one sidecar at once.
const WAITING: usize = 16;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// It is not here.
    #[error("no sidecar of {0} is connected; weft status lists those that are")]
    Absent(QualifiedName),
    /// It has enough to do.
    #[error("{WAITING} questions wait for the sidecar of {0} already")]
    Busy(QualifiedName),
    /// It took too long.
    #[error("the sidecar of {0} gave no answer within 5 s")]
    Silent(QualifiedName),
}

/// The sidecars that can be asked.
#[derive(Default)]
pub(crate) struct Asks(Mutex<HashMap<QualifiedName, mpsc::Sender<Asked>>>);

struct Asked {
    what: What,
    answer: oneshot::Sender<v1::Answer>,
}

/// A stream's end: what is asked of its sidecar.
pub(crate) struct Line {
    asks: Arc<Asks>,
    workload: QualifiedName,
    sender: mpsc::Sender<Asked>,
    asked: mpsc::Receiver<Asked>,
    waiting: BTreeMap<u64, oneshot::Sender<v1::Answer>>,
    last: u64,
}

impl Asks {
    /// From now on this workload's sidecar can be asked, until the line is dropped.
    pub(crate) fn line(self: &Arc<Self>, workload: &QualifiedName) -> Line {
        let (sender, asked) = mpsc::channel(WAITING);
        self.lock().insert(workload.clone(), sender.clone());
        let (asks, workload) = (self.clone(), workload.clone());
        Line { asks, workload, sender, asked, waiting: BTreeMap::new(), last: 0 }
    }

    /// Asks, and waits for the answer.
    pub(crate) async fn ask(&self, workload: &QualifiedName, what: What) -> Result<v1::Answer, AskError> {
        let line = self.lock().get(workload).cloned();
        let line = line.ok_or_else(|| AskError::Absent(workload.clone()))?;
        let (answer, answered) = oneshot::channel();
        line.try_send(Asked { what, answer }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => AskError::Busy(workload.clone()),
            mpsc::error::TrySendError::Closed(_) => AskError::Absent(workload.clone()),
        })?;
        match timeout(PATIENCE, answered).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(AskError::Absent(workload.clone())),
            Err(_) => Err(AskError::Silent(workload.clone())),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<QualifiedName, mpsc::Sender<Asked>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    /// Waits for the next question.
    pub(crate) async fn next(&mut self) -> v1::Ask {
        let Asked { what, answer } = loop {
            match self.asked.recv().await {
                Some(asked) => break asked,
                // We hold a sender, so there is always one to come.
                None => std::future::pending().await,
            }
        };
        self.waiting.retain(|_, waiting| !waiting.is_closed());
        self.last += 1;
        self.waiting.insert(self.last, answer);
        v1::Ask { id: self.last, what: Some(what) }
    }

    /// Hands an answer to who asked; one that nobody waits for is dropped.
    pub(crate) fn answered(&mut self, answer: v1::Answer) {
        if let Some(waiting) = self.waiting.remove(&answer.id) {
            // Who asked may have gone.
            let _ = waiting.send(answer);
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let mut lines = self.asks.lock();
        if lines.get(&self.workload).is_some_and(|line| line.same_channel(&self.sender)) {
            lines.remove(&self.workload);
        }
    }
}

impl fmt::Debug for Asks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Asks").field(&self.lock().len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn web() -> QualifiedName {
        "default/web-1".parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_gets_the_answer_to_its_question() {
        let asks = Arc::new(Asks::default());
        let mut line = asks.line(&web());
        let answering = async {
            let first = line.next().await;
            let second = line.next().await;
            for ask in [second, first] {
                let text = format!("{:?}", ask.what).into_bytes();
                line.answered(v1::Answer { id: ask.id, status: 200, text });
            }
            line.answered(v1::Answer { id: 99, status: 200, text: Vec::new() });
        };
        let web = web();
        let (config, metrics, ()) =
            tokio::join!(asks.ask(&web, What::Config(true)), asks.ask(&web, What::Metrics(true)), answering);
        assert!(String::from_utf8(config.unwrap().text).unwrap().contains("Config"));
        assert!(String::from_utf8(metrics.unwrap().text).unwrap().contains("Metrics"));
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_not_there_or_says_nothing_is_named() {
        let asks = Arc::new(Asks::default());
        let ask = || async { asks.ask(&web(), What::Config(true)).await.unwrap_err() };
        assert!(matches!(ask().await, AskError::Absent(_)));
        let line = asks.line(&web());
        assert!(matches!(ask().await, AskError::Silent(_)));
        let newer = asks.line(&web());
        drop(line);
        assert!(matches!(ask().await, AskError::Silent(_)));
        drop(newer);
        assert!(matches!(ask().await, AskError::Absent(_)));
    }
}
