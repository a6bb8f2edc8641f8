//! An authority that several control planes share: what the others make of it is taken over from the store.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::MutexGuard;
use weft_certs::Roots;

use super::{AUTHORITY, Ca, CaError, lock};
use crate::store::{Certificate, Stamp, StoreError, decode};

impl Ca {
    /// Takes over roots that others have changed.
    pub(crate) async fn follow_roots(&self, now: SystemTime) -> Result<(), CaError> {
        self.begin_change(now).await.map(drop)
    }

    /// Takes over whom others believe no more, or again.
    pub(crate) async fn follow_revocations(&self) -> Result<(), StoreError> {
        self.revocations.reload(&self.store).await?;
        self.changed.send_modify(|change| *change += 1);
        Ok(())
    }

    /// Takes over every certificate that is remembered.
    pub(crate) async fn follow_certificates(&self) -> Result<(), StoreError> {
        let (known, now) = (self.store.certificates().await?, SystemTime::now());
        let mut issued = self.lock();
        let mut replaced = lock(&self.replaced);
        known.iter().for_each(|c| replaced.follow(&c.serial, c.replaced, now));
        *issued = known.into_iter().map(|c| (c.serial.clone(), Arc::new(c))).collect();
        Ok(())
    }

    /// Takes over a certificate that another has issued, or forgotten.
    pub(crate) fn follow_certificate(&self, serial: String, record: Option<&[u8]>) -> Result<(), StoreError> {
        match record {
            Some(record) => {
                let certificate: Certificate = decode("a certificate", record)?;
                let mut issued = self.lock();
                lock(&self.replaced).follow(&serial, certificate.replaced, SystemTime::now());
                issued.insert(serial, Arc::new(certificate));
            }
            None => drop(self.lock().remove(&serial)),
        }
        Ok(())
    }

    /// Begins a change of roots or revocations, from what others have made of the roots meanwhile.
    pub(super) async fn begin_change(&self, now: SystemTime) -> Result<MutexGuard<'_, Stamp>, CaError> {
        let mut stamp = self.changing.lock().await;
        if self.store.is_shared() {
            self.take_over_roots(&mut stamp, now).await?;
        }
        Ok(stamp)
    }

    pub(super) async fn take_over_roots(&self, stamp: &mut Stamp, now: SystemTime) -> Result<(), CaError> {
        let (kept, found) = self.store.stamped_secret(AUTHORITY).await?;
        if let Some(kept) = kept.filter(|_| found != *stamp) {
            let roots = Roots::from_pem(&String::from_utf8_lossy(&kept), now).map_err(CaError::Authority)?;
            *stamp = found;
            self.roots.store(Arc::new(roots));
            self.changed.send_modify(|change| *change += 1);
        }
        Ok(())
    }
}
