//! Who is not believed any more, until when, and why.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::MutexGuard;
use weft_core::model::{self, Revoked, Serial, SpiffeId};

use super::{Ca, CaError};
use crate::store::{Revocation, Stamp, Store, StoreError};

/// Revocations at a time.
const MOST: usize = 10_000;
/// How often roots are numbered anew because somebody else changes them.
const TRIES: usize = 5;
/// A reason is for people, and short.
const LONGEST_REASON: usize = 200;

/// Those in force.
pub(super) struct Revocations(ArcSwap<State>);

#[derive(Default)]
struct State {
    records: Vec<Revocation>,
    /// The same, sorted.
    revoked: Vec<Revoked>,
    index: model::Revocations,
}

impl State {
    fn of(records: Vec<Revocation>) -> Self {
        // What an earlier version wrote and this one cannot read names nobody.
        let mut revoked: Vec<Revoked> = records.iter().filter_map(|r| r.what.parse().ok()).collect();
        revoked.sort();
        Self { index: model::Revocations::new(&revoked), records, revoked }
    }
}

impl Revocations {
    pub(super) async fn open(store: &Store) -> Result<Self, StoreError> {
        Ok(Self(ArcSwap::from_pointee(State::of(store.revocations().await?))))
    }

    /// The same anew.
    pub(super) async fn reload(&self, store: &Store) -> Result<(), StoreError> {
        self.0.store(Arc::new(State::of(store.revocations().await?)));
        Ok(())
    }

    /// What everybody is told.
    pub(super) fn in_force(&self) -> Vec<Revoked> {
        self.0.load().revoked.clone()
    }

    pub(super) fn hold_identity(&self, identity: &SpiffeId) -> bool {
        self.0.load().revoked.binary_search(&Revoked::Identity(identity.clone())).is_ok()
    }

    /// What keeps the holder of this certificate out.
    pub(super) fn hold(&self, identity: &SpiffeId, serial: &str) -> Option<Revoked> {
        let state = self.0.load();
        // One that cannot be read was not issued here.
        let serial: Serial = serial.parse().ok()?;
        let both = || [Revoked::Identity(identity.clone()), Revoked::Certificate(serial.clone())];
        if !state.index.hold(identity, &serial) {
            return None;
        }
        both().into_iter().find(|revoked| state.revoked.binary_search(revoked).is_ok())
    }
}

impl Ca {
    /// Believes an identity or a certificate no longer.
    pub(crate) async fn revoke(
        &self,
        what: &str,
        lasts: Option<Duration>,
        reason: &str,
        now: SystemTime,
    ) -> Result<Revocation, CaError> {
        let revoked: Revoked = what.parse().map_err(CaError::RevokedName)?;
        let ends = lasts.and_then(|lasts| now.checked_add(lasts));
        let until = match &revoked {
            Revoked::Identity(identity) => {
                self.check_revocable(identity)?;
                ends
            }
            Revoked::Certificate(serial) => {
                let known = self.certificate(serial.as_str());
                let known = known.ok_or_else(|| CaError::Absent(format!("certificate {serial} in use")))?;
                // Once it has ended nobody takes it anyway.
                Some(ends.map_or(known.not_after, |ends| ends.min(known.not_after)))
            }
        };
        let reason = reason.chars().take(LONGEST_REASON).collect();
        let revocation = Revocation { what: revoked.to_string(), since: now, until, reason };
        let mut changing = self.begin_change(now).await?;
        let mut records = self.revocations.0.load().records.clone();
        records.retain(|record| record.what != revocation.what);
        if records.len() >= MOST {
            return Err(CaError::Irrevocable(revocation.what, "there are 10,000 revocations already"));
        }
        self.store.keep_revocation(&revocation).await?;
        records.push(revocation.clone());
        self.put_in_force(&mut changing, records, now).await?;
        drop(changing);
        tracing::warn!(what = revocation.what, reason = revocation.reason, "revoked");
        Ok(revocation)
    }

    /// Believes it again.
    pub(crate) async fn restore(&self, what: &str, now: SystemTime) -> Result<(), CaError> {
        let what = what.parse::<Revoked>().map_err(CaError::RevokedName)?.to_string();
        let mut changing = self.begin_change(now).await?;
        let mut records = self.revocations.0.load().records.clone();
        let before = records.len();
        records.retain(|record| record.what != what);
        if records.len() == before {
            return Err(CaError::Absent(format!("revocation of {what}")));
        }
        self.store.remove_revocations(vec![what.clone()]).await?;
        self.put_in_force(&mut changing, records, now).await?;
        drop(changing);
        tracing::warn!(what, "believed again");
        Ok(())
    }

    /// Everything that is revoked, the latest first.
    pub(crate) fn revocations(&self) -> Vec<Revocation> {
        let mut records = self.revocations.0.load().records.clone();
        records.sort_by(|a, b| (b.since, &a.what).cmp(&(a.since, &b.what)));
        records
    }

    /// Takes back what was revoked for a time that is over.
    pub(super) async fn forget_revocations(&self, now: SystemTime, past: SystemTime) -> Result<(), CaError> {
        let is_over = |record: &&Revocation| record.until.is_some_and(|until| until <= past);
        if !self.revocations.0.load().records.iter().any(|record| is_over(&record)) {
            return Ok(());
        }
        let mut changing = self.begin_change(now).await?;
        let records = self.revocations.0.load().records.clone();
        let (over, left): (Vec<_>, Vec<_>) = records.into_iter().partition(|record| is_over(&record));
        self.store.remove_revocations(over.into_iter().map(|record| record.what).collect()).await?;
        self.put_in_force(&mut changing, left, now).await
    }

    fn check_revocable(&self, identity: &SpiffeId) -> Result<(), CaError> {
        let refuse = |reason| Err(CaError::Irrevocable(identity.to_string(), reason));
        if identity.trust_domain() != self.roots.load().trust_domain() {
            return refuse("it is of another trust domain, and not believed anyway");
        }
        if self.is_own(identity) {
            return refuse("it is the control plane's own: to replace its keys, move to another root");
        }
        Ok(())
    }

    /// The roots are numbered anew with them; where another control plane has done so at the same moment, after that.
    async fn put_in_force(
        &self,
        stamp: &mut MutexGuard<'_, Stamp>,
        records: Vec<Revocation>,
        now: SystemTime,
    ) -> Result<(), CaError> {
        self.revocations.0.store(Arc::new(State::of(records)));
        for _ in 1..TRIES {
            let renumbered = self.roots.load().renumber(now);
            match self.adopt(stamp, renumbered).await {
                Err(CaError::Store(StoreError::Changed(_))) => self.take_over_roots(stamp, now).await?,
                done => return done,
            }
        }
        Err(StoreError::Changed("the authority").into())
    }
}
