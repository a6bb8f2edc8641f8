//! Discovery, policy, certificate authority and trace store.
//!
//! Facts come in by `source`, are folded by `world`, compiled by weft-core and pushed by `push` to the sidecars
//! that `discovery` serves. `ca` issues their certificates, `webhook` gives
//! pods their sidecars, `kubernetes` is the API server that both stand on in a cluster, `configuration` keeps what people apply as revisions
//! in the `store`, which several of us may share (`replicas`, by `etcd`) who answer as one (`together`), `api` answers the `weft` command, `telemetry` keeps traces and what was counted, `taps` and `asks` go to the
//! sidecars and back, `dashboard` shows it all.

mod api;
mod app;
mod asks;
mod ca;
mod clock;
mod config;
mod configuration;
mod dashboard;
mod discovery;
mod etcd;
mod io;
mod keys;
mod kubernetes;
mod leader;
mod listen;
mod metrics;
mod peer;
mod push;
mod replicas;
mod report;
mod restore;
mod run;
mod serve;
mod source;
mod status;
mod store;
mod taps;
mod telemetry;
mod together;
mod tokens;
mod webhook;
mod world;

pub use app::{AdminToken, App, Handle, Listeners, StartError};
pub use config::{Config, Discovery, StoreAddress, StoreOptions};
pub use etcd::{EtcdAddress, EtcdError};
pub use kubernetes::{AccessError, ApiError};
pub use restore::{Restored, restore};
pub use run::run;
pub use store::{RestoreError, StoreError};
