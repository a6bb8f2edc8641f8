//! What a sidecar does for its own app: what `TrafficPolicy` documents say of the workloads behind a service, resolved.

use std::time::Duration;

use super::{Protocol, QualifiedName};

/// Whether it is found out how many requests an app is given at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ConcurrencyMode {
    /// It is given all there are.
    #[default]
    Off,
    /// As many as it works on at once, and a few more.
    Adaptive,
}

/// What an app is asked to find out whether it works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// `GET` of a path, to be answered with a status from 200 to 399.
    Http {
        /// The path, and a query where it has one.
        path: String,
    },
    /// gRPC's health service.
    Grpc {
        /// The gRPC service that is asked about; empty: the server as a whole.
        service: String,
    },
    /// A connection, to be accepted.
    Tcp,
}

/// How an app is asked whether it works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// What it is asked.
    pub probe: Probe,
    /// The service's port; none: its first.
    pub port: Option<u16>,
    /// How often.
    pub interval: Duration,
    /// How long it may take.
    pub timeout: Duration,
    /// It fails after so many checks in a row.
    pub unhealthy_after: u32,
    /// It works again after so many.
    pub healthy_after: u32,
}

impl HealthCheck {
    /// The usual check.
    pub fn new(probe: Probe) -> Self {
        Self {
            probe,
            port: None,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(1),
            unhealthy_after: 3,
            healthy_after: 2,
        }
    }
}

/// A check of an app by its own sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppCheck {
    /// The service that the app is behind.
    pub service: QualifiedName,
    /// The app's port.
    pub port: u16,
    /// What is spoken there.
    pub protocol: Protocol,
    /// How it is asked.
    pub settings: HealthCheck,
}
