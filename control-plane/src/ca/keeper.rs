//! Keeps what everybody is told in step with what the authority is, and takes the steps of a move to another root when
//! what they wait for has come.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::sleep;
use weft_certs::{CertError, Phase, Progress, Role, Root, Roots};
use weft_core::model::{Resource, ResourceName};
use weft_core::world::Change;

use super::{Ca, CaError};
use crate::app::write_private;
use crate::clock::Steady;
use crate::leader::Leadership;
use crate::push::Hub;
use crate::replicas::Others;
use crate::report::chain;
use crate::status::Live;
use crate::world::World;

/// How often it is looked whether anything is due, or files have changed; what is changed here is heard of at once.
const LOOK: Duration = Duration::from_secs(1);
/// The same while a move is under way, which waits for what others say.
const LOOK_MOVING: Duration = Duration::from_millis(200);
/// Sidecars that are named as waited for, at most.
const NAMED: usize = 20;

/// The loop, and what it looks at.
#[derive(Debug)]
pub(crate) struct Keeper {
    pub(crate) ca: Arc<Ca>,
    pub(crate) world: Arc<World>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) live: Arc<Live>,
    /// Whether it is us who takes steps.
    pub(crate) leads: Leadership,
    /// What other control planes over the same store say of their sidecars.
    pub(crate) others: Arc<Others>,
    /// `ca.pem`.
    pub(crate) file: PathBuf,
}

/// How far a move has come, and what it waits for.
#[derive(Debug)]
pub(crate) struct Standing {
    pub(crate) roots: Arc<Roots>,
    /// Each with the number of its certificates in use.
    pub(crate) counted: Vec<(Root, usize)>,
    /// In words.
    pub(crate) waits_for: Vec<String>,
}

impl Keeper {
    /// Works for ever.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut changes = self.ca.changes();
        let (mut complained, clock) = (false, Steady::begin());
        loop {
            let stepped = self.step(SystemTime::now(), clock.past()).await;
            let kept = self.ca.keep_replaced().await.map_err(CaError::from);
            match stepped.and(kept) {
                Ok(()) => complained = false,
                Err(error) if complained => {
                    tracing::debug!(reason = chain(&error), "the certificate authority's upkeep fails still");
                }
                Err(error) => {
                    tracing::error!(reason = chain(&error), "the certificate authority's upkeep failed");
                    complained = true;
                }
            }
            let look = if self.ca.roots().phase() == Phase::Steady { LOOK } else { LOOK_MOVING };
            tokio::select! {
                () = sleep(look) => {}
                // The sender lives in the authority that we hold.
                _ = changes.changed() => {}
            }
        }
    }

    async fn step(&self, now: SystemTime, past: SystemTime) -> Result<(), CaError> {
        let leads = self.leads.holds();
        if leads {
            self.ca.follow_files(now).await?;
            self.ca.forget_revocations(now, past).await?;
            self.ca.renew_issuing(now).await?;
        }
        self.publish();
        if !leads {
            return Ok(());
        }
        let (unaware, former_in_use) = (self.unaware().len(), self.former_in_use(now));
        if self.ca.advance(Progress { unaware, former_in_use }, now).await? {
            self.publish();
        }
        Ok(())
    }

    /// Tells everybody, where what they are told is not what is so.
    fn publish(&self) {
        let trust = self.ca.trust();
        let told = self.world.read(|known| known.trust().clone());
        // How fast renewals may come differs all the time; alone it is not worth telling.
        if (told.sequence, &told.anchors, &told.revoked) != (trust.sequence, &trust.anchors, &trust.revoked) {
            self.world.apply(Change::Trust(trust));
        }
        let pem = self.ca.anchors_pem();
        if fs::read_to_string(&self.file).ok().as_ref() != Some(&pem)
            && let Err(error) = write_private(&self.file, &pem)
        {
            tracing::error!(reason = chain(&error), "cannot write the roots down for others");
        }
    }

    /// The connected sidecars that do not trust yet what is trusted now.
    fn unaware(&self) -> Vec<String> {
        let sequence = self.world.read(|known| known.trust().sequence);
        let mut unaware = self.unaware_here();
        unaware.extend(self.others.unaware(sequence));
        unaware
    }

    /// Those of them that are connected to us.
    pub(crate) fn unaware_here(&self) -> Vec<String> {
        let told = self.world.read(|known| known.trust().clone());
        let name = ResourceName::Trust(told.trust_domain.clone());
        match self.hub.snapshot().hash_of(&name, &Resource::Trust(told)) {
            Some(hash) => self.live.unaware(hash).iter().map(ToString::to_string).collect(),
            None => vec!["every sidecar".to_owned()],
        }
    }

    fn former_in_use(&self, now: SystemTime) -> usize {
        let roots = self.ca.roots();
        let counts = self.ca.certificates_by_root(now);
        counts.iter().filter(|(root, _)| !roots.is_lasting(root)).map(|(_, count)| count).sum()
    }

    /// How far a move has come.
    pub(crate) fn standing(&self, now: SystemTime) -> Result<Standing, CertError> {
        let roots = self.ca.roots();
        let counts = self.ca.certificates_by_root(now);
        let count = |root: Root| {
            let of_it = counts.get(&root.fingerprint).copied().unwrap_or_default();
            (root, of_it)
        };
        let counted: Vec<_> = roots.roots()?.into_iter().map(count).collect();
        let mut waits_for = Vec::new();
        if roots.phase() != Phase::Steady {
            let mut unaware = self.unaware();
            let more = unaware.len().saturating_sub(NAMED);
            unaware.truncate(NAMED);
            waits_for.extend(unaware.into_iter().map(|name| format!("{name} to trust both roots")));
            if more > 0 {
                waits_for.push(format!("{more} more to trust both roots"));
            }
        }
        let former = counted.iter().filter(|(root, _)| root.role == Role::Former);
        let former: usize = former.map(|(_, count)| count).sum();
        if roots.phase() == Phase::Moved && former > 0 {
            waits_for.push(format!("{former} certificates of the former root to be renewed, or to end"));
        }
        Ok(Standing { roots, counted, waits_for })
    }
}
