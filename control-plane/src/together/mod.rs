//! Several control planes answer as one: each holds what its own sidecars told it, so whoever is asked asks the others.
//!
//! `line` is the way to another one, `service` what we answer to it, `wire` the messages. Whoever does not answer in time is counted, and
//! that is told: an answer is never silently half of one.

mod line;
mod service;
pub(crate) mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, timeout_at};
use tonic::{Response, Status};

use crate::ca::OwnCertificate;
use crate::replicas::Others;
use line::Line;

pub(crate) use line::{Client, ReplicaGate};
pub(crate) use service::ReplicaService;

/// The control planes over our store.
#[derive(Default)]
pub(crate) struct Together {
    /// None: we are alone.
    way: Option<Way>,
    lines: Mutex<BTreeMap<String, Line>>,
}

/// Who the others are, and what proves to them who we are.
#[derive(Debug)]
struct Way {
    others: Arc<Others>,
    own: Arc<OwnCertificate>,
    /// For all that is asked of them to answer one question.
    budget: Duration,
}

/// A question to all of them, of one or several parts.
#[derive(Debug)]
pub(crate) struct Asking<'t> {
    together: &'t Together,
    there: Vec<(String, Option<SocketAddr>)>,
    silent: BTreeSet<String>,
    until: Instant,
}

/// How many of all control planes did not answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Missing {
    silent: usize,
    of: usize,
}

impl Together {
    /// With those that the store tells of.
    pub(crate) fn with(others: Arc<Others>, own: Arc<OwnCertificate>, budget: Duration) -> Self {
        Self { way: Some(Way { others, own, budget }), lines: Mutex::default() }
    }

    /// Begins to ask; the time runs.
    pub(crate) fn asking(&self) -> Asking<'_> {
        let there = self.way.as_ref().map(|way| way.others.addresses()).unwrap_or_default();
        let budget = self.way.as_ref().map(|way| way.budget).unwrap_or_default();
        self.lock().retain(|id, _| there.iter().any(|(known, _)| known == id));
        Asking { together: self, there, silent: BTreeSet::new(), until: Instant::now() + budget }
    }

    /// The way to the one of this name; none where it is not there.
    pub(crate) fn client_of(&self, id: &str) -> Option<Client> {
        let there = self.way.as_ref()?.others.addresses();
        let (_, address) = there.into_iter().find(|(known, _)| known == id)?;
        self.client(id, address?)
    }

    fn client(&self, id: &str, address: SocketAddr) -> Option<Client> {
        let way = self.way.as_ref()?;
        let mut lines = self.lock();
        if let Some(line) = lines.get(id).filter(|line| line.leads_to(address)) {
            return Some(line.client());
        }
        let line = Line::new(id, address, way.own.clone())?;
        let client = line.client();
        lines.insert(id.to_owned(), line);
        Some(client)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Line>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Asking<'_> {
    /// Whether there is nobody to ask.
    pub(crate) fn is_alone(&self) -> bool {
        self.there.is_empty()
    }

    /// What those say that answer; who did not answer before is not asked again.
    pub(crate) async fn each<A, F>(&mut self, ask: impl Fn(Client) -> F) -> Vec<A>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let until = self.until;
        let asked = self.there.iter().filter(|(id, _)| !self.silent.contains(id)).map(|(id, address)| {
            let client = address.and_then(|address| self.together.client(id, address));
            let asked = client.map(&ask);
            async move {
                let answer = match asked {
                    Some(asked) => timeout_at(until, asked).await.ok(),
                    None => None,
                };
                (id.clone(), answer)
            }
        });
        let mut answers = Vec::new();
        for (id, answer) in join_all(asked).await {
            match answer {
                Some(Ok(answer)) => answers.push(answer.into_inner()),
                Some(Err(status)) => {
                    tracing::debug!(
                        replica = id,
                        reason = status.message(),
                        "another control plane refused to answer"
                    );
                    self.silent.insert(id);
                }
                None => {
                    tracing::debug!(replica = id, "another control plane did not answer in time");
                    self.silent.insert(id);
                }
            }
        }
        answers
    }

    /// Who did not answer.
    pub(crate) fn missing(&self) -> Missing {
        Missing { silent: self.silent.len(), of: self.there.len() + 1 }
    }
}

impl Missing {
    /// In words; empty where all answered.
    pub(crate) fn words(self) -> String {
        match self.silent {
            0 => String::new(),
            silent => {
                let of = self.of;
                format!("{silent} of {of} control planes did not answer: what only they know is missing")
            }
        }
    }
}

impl fmt::Debug for Together {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Together").field("lines", &self.lock().len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_did_not_answer_is_told_in_words() {
        assert_eq!(Missing { silent: 0, of: 3 }.words(), "");
        assert_eq!(
            Missing { silent: 1, of: 3 }.words(),
            "1 of 3 control planes did not answer: what only they know is missing"
        );
    }

    #[tokio::test]
    async fn who_is_alone_asks_nobody_and_misses_nothing() {
        let together = Together::default();
        let mut asking = together.asking();
        assert!(asking.is_alone());
        let none: Vec<()> = asking.each(async |_| Ok(Response::new(()))).await;
        assert_eq!((none.len(), asking.missing().words()), (0, String::new()));
    }
}
