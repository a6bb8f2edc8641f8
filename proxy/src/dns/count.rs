//! What is counted of questions. The labels are closed sets.

use weft_runtime::metrics::{Counter, Family, Registry, Shard};

use super::wire::{Header, Rcode};

const QUERIES: Family<Counter, 2> = Family::counter(
    "weft_dns_queries_total",
    "DNS questions, by who answered them and how.",
    ["kind", "rcode"],
);

/// Who answered a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// The mesh.
    Mesh,
    /// The pod's resolvers, or nobody.
    Upstream,
    /// They did earlier.
    Cache,
    /// Nobody: it is none, or not for us.
    Refused,
    /// Nobody: there were too many.
    Dropped,
}

impl By {
    fn as_str(self) -> &'static str {
        match self {
            Self::Mesh => "mesh",
            Self::Upstream => "upstream",
            Self::Cache => "cache",
            Self::Refused => "refused",
            Self::Dropped => "dropped",
        }
    }
}

/// Counts questions.
#[derive(Clone)]
pub(super) struct Count(Shard);

impl std::fmt::Debug for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Count")
    }
}

impl Count {
    pub(super) fn new(registry: &Registry) -> Self {
        registry.declare(&QUERIES);
        Self(registry.shard())
    }

    /// Counts an answer.
    pub(super) fn answered(&self, by: By, message: &[u8]) {
        let rcode = match (by, Header::read(message).map_or(Rcode::Other, |header| Rcode::of(header.flags))) {
            // A refusal whose header says that all is well says why beyond the header.
            (By::Refused, Rcode::NoError) => Rcode::BadVers,
            (_, rcode) => rcode,
        };
        self.add(by, rcode.as_str());
    }

    /// Counts a question that got no answer.
    pub(super) fn unanswered(&self, by: By) {
        self.add(by, "none");
    }

    fn add(&self, by: By, rcode: &str) {
        self.0.series(&QUERIES, &[by.as_str(), rcode]).increment();
    }
}
