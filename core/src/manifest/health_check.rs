//! `healthCheck` of a `TrafficPolicy`.

use std::time::Duration;

use super::decode::{Field, Object};
use crate::model::{HealthCheck, Probe, layers};

/// How often an app may be asked, and how seldom.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(3600);

/// Checks in a row, at most.
const MAX_IN_A_ROW: u32 = 100;

/// Bytes of a path or a service's name, at most.
const MAX_TEXT: usize = 1024;

layers! {
    /// What policies say of asking an app how it is.
    pub struct HealthCheckLayer {
        /// What it is asked.
        pub probe as "probe": Probe,
        /// The service's port; none: its first.
        pub port as "port": u16,
        /// How often.
        pub interval as "interval": Duration,
        /// How long it may take.
        pub timeout as "timeout": Duration,
        /// It fails after so many checks in a row.
        pub unhealthy_after as "unhealthyAfter": u32,
        /// It works again after so many.
        pub healthy_after as "healthyAfter": u32,
    }
}

impl HealthCheckLayer {
    /// What holds, where it is said what an app is asked.
    pub(super) fn resolve(self) -> Option<HealthCheck> {
        let default = HealthCheck::new(self.probe?);
        let interval = self.interval.unwrap_or(default.interval);
        Some(HealthCheck {
            port: self.port,
            interval,
            timeout: self.timeout.unwrap_or(default.timeout).min(interval),
            unhealthy_after: self.unhealthy_after.unwrap_or(default.unhealthy_after),
            healthy_after: self.healthy_after.unwrap_or(default.healthy_after),
            ..default
        })
    }
}

pub(super) fn read(field: &Field<'_>) -> Option<HealthCheckLayer> {
    let object = field.object(&[
        "path",
        "grpc",
        "tcp",
        "port",
        "interval",
        "timeout",
        "unhealthyAfter",
        "healthyAfter",
    ])?;
    let number = |name: &str| object.field(name).and_then(|field| field.integer(1..=MAX_IN_A_ROW));
    let interval = object.field("interval").and_then(|field| interval(&field));
    let timeout = object.field("timeout").and_then(|field| Some((field.duration()?, field)));
    if let Some((timeout, field)) = &timeout
        && *timeout > interval.unwrap_or_else(|| HealthCheck::new(Probe::Tcp).interval)
    {
        field.mistake("is longer than the interval", "write a shorter one, or a longer interval");
    }
    Some(HealthCheckLayer {
        probe: Some(probe(field, &object)?),
        port: object.field("port").and_then(|field| field.port()),
        interval,
        timeout: timeout.map(|(timeout, _)| timeout),
        unhealthy_after: number("unhealthyAfter"),
        healthy_after: number("healthyAfter"),
    })
}

fn probe(field: &Field<'_>, object: &Object<'_>) -> Option<Probe> {
    match (object.field("path"), object.field("grpc"), object.field("tcp")) {
        (Some(path), None, None) => http(&path),
        (None, Some(grpc), None) => {
            let service = grpc.object(&["service"])?.field("service");
            let service = service.map(|field| Some((field.text()?.to_owned(), field)));
            let Some(service) = service else { return Some(Probe::Grpc { service: String::new() }) };
            let (service, field) = service?;
            if service.len() > MAX_TEXT {
                field.mistake("is too long", "write the name of a gRPC service");
            }
            Some(Probe::Grpc { service })
        }
        (None, None, Some(tcp)) => tcp.object(&[]).map(|_| Probe::Tcp),
        _ => {
            let message = "exactly one of path, grpc and tcp is expected";
            field.mistake(message, "write path: /healthz, grpc: {} or tcp: {}");
            None
        }
    }
}

fn http(field: &Field<'_>) -> Option<Probe> {
    let path = field.text()?;
    let is_target = path.starts_with('/')
        && path.len() <= MAX_TEXT
        && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    if !is_target {
        field.mistake(format!("{path:?} is no path"), "write a path such as /healthz");
        return None;
    }
    Some(Probe::Http { path: path.to_owned() })
}

fn interval(field: &Field<'_>) -> Option<Duration> {
    let interval = field.duration()?;
    if (SHORTEST..=LONGEST).contains(&interval) {
        return Some(interval);
    }
    field.mistake("is not from 100ms to 1h", "write an interval such as 5s");
    None
}
