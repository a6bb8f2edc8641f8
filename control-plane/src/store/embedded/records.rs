//! Tokens, certificates, registrations and allocated addresses: one record each, by name.

use std::time::SystemTime;

use redb::{ReadableTable, TableDefinition, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::super::{Allocation, Certificate, KeySet, Registration, Revocation, StoreError, Token};
use super::{Embedded, Fault, Records, decode, encode, values};

const TOKENS: Records = TableDefinition::new("tokens");
const CERTIFICATES: Records = TableDefinition::new("certificates");
const REGISTRATIONS: Records = TableDefinition::new("registrations");
const ADDRESSES: Records = TableDefinition::new("addresses");
const KEY_SETS: Records = TableDefinition::new("key-sets");
const REVOCATIONS: Records = TableDefinition::new("revocations");

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

pub(super) fn make_tables(txn: &WriteTransaction) -> Result<(), redb::Error> {
    for table in [TOKENS, CERTIFICATES, REGISTRATIONS, ADDRESSES, KEY_SETS, REVOCATIONS] {
        txn.open_table(table)?;
    }
    Ok(())
}

impl Embedded {
    /// Keeps a new token.
    pub(crate) async fn keep_token(&self, token: &Token) -> Result<(), StoreError> {
        self.put("keep a token", TOKENS, vec![(token.id.clone(), encode("a token", token)?)]).await
    }

    /// Every token, also revoked ones.
    pub(crate) async fn tokens(&self) -> Result<Vec<Token>, StoreError> {
        self.all("list tokens", "a token", TOKENS).await
    }

    /// Spends one use of a token, if it has one: at most as many succeed as it has uses.
    pub(crate) async fn spend_token(&self, id: &str) -> Result<TokenUse, StoreError> {
        // Most tokens are unlimited: to look at them changes nothing.
        let name = id.to_owned();
        let seen = self.read("read a token", move |txn| find("a token", &txn.open_table(TOKENS)?, &name));
        match seen.await? {
            None => return Ok(TokenUse::Unknown),
            Some(Token { revoked: true, .. }) => return Ok(TokenUse::Revoked),
            Some(token) if token.uses_left.is_none() => return Ok(TokenUse::Spent(token)),
            Some(_) => {}
        }
        let id = id.to_owned();
        self.write("use a token", move |txn| {
            let mut table = txn.open_table(TOKENS)?;
            let Some(mut token) = find::<Token>("a token", &table, &id)? else {
                return Ok(TokenUse::Unknown);
            };
            if token.revoked {
                return Ok(TokenUse::Revoked);
            }
            if let Some(left) = token.uses_left {
                let Some(left) = left.checked_sub(1) else { return Ok(TokenUse::UsedUp) };
                token.uses_left = Some(left);
                table.insert(id.as_str(), encode("a token", &token)?.as_slice())?;
            }
            Ok(TokenUse::Spent(token))
        })
        .await
    }

    /// Takes a token back; false where there is none.
    pub(crate) async fn revoke_token(&self, id: &str) -> Result<bool, StoreError> {
        let id = id.to_owned();
        self.write("revoke a token", move |txn| {
            let mut table = txn.open_table(TOKENS)?;
            let Some(token) = find::<Token>("a token", &table, &id)? else { return Ok(false) };
            let revoked = encode("a token", &Token { revoked: true, ..token })?;
            table.insert(id.as_str(), revoked.as_slice())?;
            Ok(true)
        })
        .await
    }

    /// Whether a token was taken back.
    pub(crate) async fn is_token_revoked(&self, id: &str) -> Result<bool, StoreError> {
        let id = id.to_owned();
        let found =
            self.read("read a token", move |txn| find::<Token>("a token", &txn.open_table(TOKENS)?, &id));
        Ok(found.await?.is_some_and(|token| token.revoked))
    }

    /// Keeps who is not believed.
    pub(crate) async fn keep_revocation(&self, revocation: &Revocation) -> Result<(), StoreError> {
        let record = (revocation.what.clone(), encode("a revocation", revocation)?);
        self.put("keep a revocation", REVOCATIONS, vec![record]).await
    }

    /// Everybody who is not believed.
    pub(crate) async fn revocations(&self) -> Result<Vec<Revocation>, StoreError> {
        self.all("list revocations", "a revocation", REVOCATIONS).await
    }

    /// Forgets these revocations.
    pub(crate) async fn remove_revocations(&self, what: Vec<String>) -> Result<(), StoreError> {
        self.remove("take revocations back", REVOCATIONS, what).await
    }

    /// Keeps an issued certificate.
    pub(crate) async fn keep_certificate(&self, certificate: &Certificate) -> Result<(), StoreError> {
        let record = (certificate.serial.clone(), encode("a certificate", certificate)?);
        self.put("keep a certificate", CERTIFICATES, vec![record]).await
    }

    /// Every certificate that is remembered.
    pub(crate) async fn certificates(&self) -> Result<Vec<Certificate>, StoreError> {
        self.all("list certificates", "a certificate", CERTIFICATES).await
    }

    /// Forgets the certificates that ended before this.
    pub(crate) async fn prune_certificates(&self, before: SystemTime) -> Result<(), StoreError> {
        let ended = |certificate: &Certificate| certificate.not_after < before;
        let serials = self.certificates().await?.into_iter().filter(ended).map(|c| c.serial).collect();
        self.remove("forget expired certificates", CERTIFICATES, serials).await
    }

    /// Forgets the tokens that ended before this.
    pub(crate) async fn prune_tokens(&self, before: SystemTime) -> Result<(), StoreError> {
        let ended = |token: &Token| token.expires < before;
        let ids = self.tokens().await?.into_iter().filter(ended).map(|token| token.id).collect();
        self.remove("forget expired tokens", TOKENS, ids).await
    }

    /// Keeps registrations, and forgets those of the `gone` workloads (`namespace/name`).
    pub(crate) async fn keep_registrations(
        &self,
        present: &[Registration],
        gone: Vec<String>,
    ) -> Result<(), StoreError> {
        let mut records = Vec::with_capacity(present.len());
        for registration in present {
            let name = format!("{}/{}", registration.namespace, registration.workload);
            records.push((name, encode("a registration", registration)?));
        }
        self.write("keep registrations", move |txn| {
            let mut table = txn.open_table(REGISTRATIONS)?;
            for name in &gone {
                table.remove(name.as_str())?;
            }
            for (name, bytes) in &records {
                table.insert(name.as_str(), bytes.as_slice())?;
            }
            Ok(())
        })
        .await
    }

    /// Every registration.
    pub(crate) async fn registrations(&self) -> Result<Vec<Registration>, StoreError> {
        self.all("list registrations", "a registration", REGISTRATIONS).await
    }

    /// Keeps the addresses of services; of one without any, forgets them.
    pub(crate) async fn keep_allocations(&self, allocations: &[Allocation]) -> Result<(), StoreError> {
        let (gone, present): (Vec<_>, Vec<_>) = allocations.iter().partition(|a| a.addresses.is_empty());
        let mut records = Vec::with_capacity(present.len());
        for allocation in present {
            records.push((allocation.service.clone(), encode("an address", allocation)?));
        }
        self.put("keep addresses", ADDRESSES, records).await?;
        self.remove("forget addresses", ADDRESSES, gone.into_iter().map(|a| a.service.clone()).collect())
            .await
    }

    /// The addresses of every service that ever had some.
    pub(crate) async fn allocations(&self) -> Result<Vec<Allocation>, StoreError> {
        self.all("list addresses", "an address", ADDRESSES).await
    }

    /// Keeps the keys of a source.
    pub(crate) async fn keep_key_set(&self, set: &KeySet) -> Result<(), StoreError> {
        self.put("keep keys", KEY_SETS, vec![(set.name(), encode("keys", set)?)]).await
    }

    /// Forgets the keys of a source.
    pub(crate) async fn forget_key_set(&self, set: &KeySet) -> Result<(), StoreError> {
        self.remove("forget keys", KEY_SETS, vec![set.name()]).await
    }

    /// The keys of every source.
    pub(crate) async fn key_sets(&self) -> Result<Vec<KeySet>, StoreError> {
        self.all("list keys", "keys", KEY_SETS).await
    }

    async fn put(
        &self,
        what: &'static str,
        table: Records,
        records: Vec<(String, Vec<u8>)>,
    ) -> Result<(), StoreError> {
        self.write(what, move |txn| {
            let mut table = txn.open_table(table)?;
            for (name, bytes) in &records {
                table.insert(name.as_str(), bytes.as_slice())?;
            }
            Ok(())
        })
        .await
    }

    async fn remove(&self, what: &'static str, table: Records, names: Vec<String>) -> Result<(), StoreError> {
        if names.is_empty() {
            return Ok(());
        }
        self.write(what, move |txn| {
            let mut table = txn.open_table(table)?;
            for name in &names {
                table.remove(name.as_str())?;
            }
            Ok(())
        })
        .await
    }

    async fn all<T: DeserializeOwned + Serialize>(
        &self,
        what: &'static str,
        record: &'static str,
        table: Records,
    ) -> Result<Vec<T>, StoreError> {
        let found = self.read(what, move |txn| values(txn, table)).await?;
        found.iter().map(|bytes| decode(record, bytes)).collect()
    }
}

/// The record of this name.
fn find<T: DeserializeOwned>(
    what: &'static str,
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    name: &str,
) -> Result<Option<T>, Fault> {
    let found = table.get(name)?;
    Ok(found.map(|record| decode(what, record.value())).transpose()?)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::super::Grant;
    use super::*;

    fn token(id: &str, uses_left: Option<u32>) -> Token {
        Token {
            id: id.into(),
            namespace: "default".into(),
            service_account: "web".into(),
            grant: Grant::default(),
            expires: SystemTime::UNIX_EPOCH + Duration::from_secs(100),
            uses_left,
            revoked: false,
            admin: None,
        }
    }

    #[tokio::test]
    async fn a_token_is_spent_at_most_as_often_as_it_may() {
        let dir = tempfile::tempdir().unwrap();
        let store = Embedded::open(dir.path()).unwrap();
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
