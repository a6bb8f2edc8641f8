//! Discovery, policy, certificate authority and trace store.
