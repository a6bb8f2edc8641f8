//! Tokens, certificates, registrations and allocated addresses: one record each, by name.

use std::time::SystemTime;

use serde::de::DeserializeOwned;

use super::engine::{Batch, Outcome, Table, Write};
use super::handle::Store;
use super::{Allocation, Certificate, KeySet, Registration, Revocation, StoreError, Token, decode, encode};

/// How often a change is tried again because somebody else changes the same.
const TRIES: usize = 20;

/// What became of the attempt to use a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TokenUse {
    /// It was good, and one use of it is spent.
    Spent(Token),
    /// No such token was ever made here, or it was pruned long after it expired.
    Unknown,
    /// It was taken back.
    Revoked,
    /// It has been used as often as it may.
    UsedUp,
}

/// A change of one registration.
#[derive(Debug, Clone)]
pub(crate) struct Registering {
    /// `namespace/name`.
    pub name: String,
    /// What it is from now on; none: it is gone.
    pub record: Option<Vec<u8>>,
    /// What must stand there before; none: whatever stands there.
    pub before: Option<Vec<u8>>,
}

impl Store {
    /// Keeps a new token.
    pub(crate) async fn keep_token(&self, token: &Token) -> Result<(), StoreError> {
        self.put("keep a token", Table::Tokens, token.id.clone(), encode("a token", token)?).await
    }

    /// Every token, also revoked ones.
    pub(crate) async fn tokens(&self) -> Result<Vec<Token>, StoreError> {
        self.all("list tokens", "a token", Table::Tokens).await
    }

    /// Spends one use of a token, if it has one: at most as many succeed as it has uses.
    pub(crate) async fn spend_token(&self, id: &str) -> Result<TokenUse, StoreError> {
        for _ in 0..TRIES {
            let Some(kept) = self.engine.read("read a token", Table::Tokens, id).await? else {
                return Ok(TokenUse::Unknown);
            };
            let token: Token = decode("a token", &kept)?;
            if token.revoked {
                return Ok(TokenUse::Revoked);
            }
            // Most tokens are unlimited: to look at them changes nothing.
            let Some(left) = token.uses_left else { return Ok(TokenUse::Spent(token)) };
            let Some(left) = left.checked_sub(1) else { return Ok(TokenUse::UsedUp) };
            let token = Token { uses_left: Some(left), ..token };
            if self.swap("use a token", Table::Tokens, id, kept, encode("a token", &token)?).await? {
                return Ok(TokenUse::Spent(token));
            }
        }
        Err(StoreError::Changed("a token"))
    }

    /// Takes a token back; false where there is none.
    pub(crate) async fn revoke_token(&self, id: &str) -> Result<bool, StoreError> {
        for _ in 0..TRIES {
            let Some(kept) = self.engine.read("read a token", Table::Tokens, id).await? else {
                return Ok(false);
            };
            let token: Token = decode("a token", &kept)?;
            let revoked = encode("a token", &Token { revoked: true, ..token })?;
            if self.swap("revoke a token", Table::Tokens, id, kept, revoked).await? {
                return Ok(true);
            }
        }
        Err(StoreError::Changed("a token"))
    }

    /// Whether a token was taken back.
    pub(crate) async fn is_token_revoked(&self, id: &str) -> Result<bool, StoreError> {
        let found: Option<Token> = self.one("read a token", "a token", Table::Tokens, id).await?;
        Ok(found.is_some_and(|token| token.revoked))
    }

    /// Keeps who is not believed.
    pub(crate) async fn keep_revocation(&self, revocation: &Revocation) -> Result<(), StoreError> {
        let record = encode("a revocation", revocation)?;
        self.put("keep a revocation", Table::Revocations, revocation.what.clone(), record).await
    }

    /// Everybody who is not believed.
    pub(crate) async fn revocations(&self) -> Result<Vec<Revocation>, StoreError> {
        self.all("list revocations", "a revocation", Table::Revocations).await
    }

    /// Forgets these revocations.
    pub(crate) async fn remove_revocations(&self, what: Vec<String>) -> Result<(), StoreError> {
        self.remove("take revocations back", Table::Revocations, what).await
    }

    /// Keeps an issued certificate.
    pub(crate) async fn keep_certificate(&self, certificate: &Certificate) -> Result<(), StoreError> {
        let record = encode("a certificate", certificate)?;
        self.put("keep a certificate", Table::Certificates, certificate.serial.clone(), record).await
    }

    /// The certificate of this serial number, if it is remembered.
    pub(crate) async fn certificate(&self, serial: &str) -> Result<Option<Certificate>, StoreError> {
        self.one("read a certificate", "a certificate", Table::Certificates, serial).await
    }

    /// Every certificate that is remembered.
    pub(crate) async fn certificates(&self) -> Result<Vec<Certificate>, StoreError> {
        self.all("list certificates", "a certificate", Table::Certificates).await
    }

    /// Forgets the certificates that ended before this.
    pub(crate) async fn prune_certificates(&self, before: SystemTime) -> Result<(), StoreError> {
        let ended = |certificate: &Certificate| certificate.not_after < before;
        let serials = self.certificates().await?.into_iter().filter(ended).map(|c| c.serial).collect();
        self.remove("forget expired certificates", Table::Certificates, serials).await
    }

    /// Forgets the tokens that ended before this.
    pub(crate) async fn prune_tokens(&self, before: SystemTime) -> Result<(), StoreError> {
        let ended = |token: &Token| token.expires < before;
        let ids = self.tokens().await?.into_iter().filter(ended).map(|token| token.id).collect();
        self.remove("forget expired tokens", Table::Tokens, ids).await
    }

    /// Changes registrations, each for itself. When each was done, as the store counts; none: something else stood there.
    pub(crate) async fn register(&self, changes: &[Registering]) -> Result<Vec<Option<i64>>, StoreError> {
        const WHAT: &str = "keep registrations";
        let write = |change: &Registering| Write {
            table: Table::Registrations,
            name: change.name.clone(),
            value: change.record.clone(),
        };
        if !self.engine.is_shared() {
            self.engine.write_all(WHAT, changes.iter().map(write).collect()).await?;
            return Ok(vec![Some(0); changes.len()]);
        }
        let batch = |change: &Registering| {
            let expected = change.before.clone().map(|before| Write {
                table: Table::Registrations,
                name: change.name.clone(),
                value: Some(before),
            });
            Batch { expected: expected.into_iter().collect(), writes: vec![write(change)] }
        };
        let batches: Vec<_> = changes.iter().map(batch).collect();
        let outcomes = self.engine.each(WHAT, &batches).await?;
        let done = |(outcome, at)| (outcome == Outcome::Done).then_some(at);
        Ok(outcomes.into_iter().map(done).collect())
    }

    /// Every registration.
    pub(crate) async fn registrations(&self) -> Result<Vec<Registration>, StoreError> {
        self.all("list registrations", "a registration", Table::Registrations).await
    }

    /// Keeps the addresses of services; of one without any, forgets them.
    pub(crate) async fn keep_allocations(&self, allocations: &[Allocation]) -> Result<(), StoreError> {
        let mut writes = Vec::with_capacity(allocations.len());
        for allocation in allocations {
            let is_there = !allocation.addresses.is_empty();
            let value = is_there.then(|| encode("an address", allocation)).transpose()?;
            writes.push(Write { table: Table::Addresses, name: allocation.service.clone(), value });
        }
        self.engine.write_all("keep addresses", writes).await
    }

    /// The addresses of every service that ever had some.
    pub(crate) async fn allocations(&self) -> Result<Vec<Allocation>, StoreError> {
        self.all("list addresses", "an address", Table::Addresses).await
    }

    /// Keeps the keys of a source.
    pub(crate) async fn keep_key_set(&self, set: &KeySet) -> Result<(), StoreError> {
        self.put("keep keys", Table::KeySets, set.name(), encode("keys", set)?).await
    }

    /// Forgets the keys of a source.
    pub(crate) async fn forget_key_set(&self, set: &KeySet) -> Result<(), StoreError> {
        self.remove("forget keys", Table::KeySets, vec![set.name()]).await
    }

    /// The keys of every source.
    pub(crate) async fn key_sets(&self) -> Result<Vec<KeySet>, StoreError> {
        self.all("list keys", "keys", Table::KeySets).await
    }

    async fn put(
        &self,
        what: &'static str,
        table: Table,
        name: String,
        record: Vec<u8>,
    ) -> Result<(), StoreError> {
        self.engine.commit(what, Batch::default().putting(table, name, record)).await.map(drop)
    }

    /// Puts a record in the place of another; false where that one is not there any more.
    async fn swap(
        &self,
        what: &'static str,
        table: Table,
        name: &str,
        before: Vec<u8>,
        record: Vec<u8>,
    ) -> Result<bool, StoreError> {
        let batch = Batch::default().expecting(table, name, Some(before)).putting(table, name, record);
        Ok(self.engine.commit(what, batch).await? == Outcome::Done)
    }

    async fn remove(&self, what: &'static str, table: Table, names: Vec<String>) -> Result<(), StoreError> {
        let gone = |name: String| Write { table, name, value: None };
        self.engine.write_all(what, names.into_iter().map(gone).collect()).await
    }

    async fn one<T: DeserializeOwned>(
        &self,
        what: &'static str,
        record: &'static str,
        table: Table,
        name: &str,
    ) -> Result<Option<T>, StoreError> {
        let found = self.engine.read(what, table, name).await?;
        found.map(|bytes| decode(record, &bytes)).transpose()
    }

    async fn all<T: DeserializeOwned>(
        &self,
        what: &'static str,
        record: &'static str,
        table: Table,
    ) -> Result<Vec<T>, StoreError> {
        let found = self.engine.scan(what, table).await?;
        found.iter().map(|(_, bytes)| decode(record, bytes)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::samples::token;
    use super::*;

    #[tokio::test]
    async fn a_token_is_spent_at_most_as_often_as_it_may() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.keep_token(&token("two", Some(2))).await.unwrap();
        store.keep_token(&token("any", None)).await.unwrap();
        let spend = |id: &'static str| {
            let store = store.clone();
            async move { store.spend_token(id).await.unwrap() }
        };
        let tries = futures_util::future::join_all((0..8).map(|_| spend("two"))).await;
        assert_eq!(tries.iter().filter(|t| matches!(t, TokenUse::Spent(_))).count(), 2);
        assert_eq!(tries.iter().filter(|t| **t == TokenUse::UsedUp).count(), 6);
        assert!(matches!(spend("any").await, TokenUse::Spent(_)));
        assert!(store.revoke_token("any").await.unwrap());
        assert_eq!(spend("any").await, TokenUse::Revoked);
        assert_eq!(spend("none").await, TokenUse::Unknown);
        assert!(!store.revoke_token("none").await.unwrap());
        store.prune_tokens(SystemTime::UNIX_EPOCH + Duration::from_secs(101)).await.unwrap();
        assert_eq!(store.tokens().await.unwrap(), []);
    }
}
