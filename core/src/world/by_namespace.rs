//! Things with a qualified name, so that a namespace's own can be listed.

use std::collections::BTreeMap;

use crate::model::{Name, QualifiedName};

/// A map from qualified names, in their order.
#[derive(Debug, Clone)]
pub(super) struct ByNamespace<T>(BTreeMap<Name, BTreeMap<Name, T>>);

impl<T> Default for ByNamespace<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> ByNamespace<T> {
    pub(super) fn get(&self, name: &QualifiedName) -> Option<&T> {
        self.0.get(&name.namespace)?.get(&name.name)
    }

    pub(super) fn contains(&self, name: &QualifiedName) -> bool {
        self.get(name).is_some()
    }

    pub(super) fn contains_within(&self, namespace: &Name, name: &Name) -> bool {
        self.0.get(namespace).is_some_and(|names| names.contains_key(name))
    }

    pub(super) fn get_mut(&mut self, name: &QualifiedName) -> Option<&mut T> {
        self.0.get_mut(&name.namespace)?.get_mut(&name.name)
    }

    pub(super) fn insert(&mut self, name: QualifiedName, value: T) {
        self.0.entry(name.namespace).or_default().insert(name.name, value);
    }

    pub(super) fn remove(&mut self, name: &QualifiedName) -> Option<T> {
        let namespace = self.0.get_mut(&name.namespace)?;
        let value = namespace.remove(&name.name);
        if namespace.is_empty() {
            self.0.remove(&name.namespace);
        }
        value
    }

    /// Those of one namespace.
    pub(super) fn within(&self, namespace: &Name) -> impl Iterator<Item = (&Name, &T)> {
        self.0.get(namespace).into_iter().flatten()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (QualifiedName, &T)> {
        let qualified = |namespace: &Name, name: &Name| QualifiedName::new(namespace.clone(), name.clone());
        self.0.iter().flat_map(move |(namespace, things)| {
            things.iter().map(move |(name, thing)| (qualified(namespace, name), thing))
        })
    }
}
