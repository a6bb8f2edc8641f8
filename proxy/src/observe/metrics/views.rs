//! What is shown of requests: the contract's families and OpenTelemetry's, made of the one that counts them.

use weft_core::classify::{Outcome, classify, grpc_code};
use weft_runtime::metrics::Registry;

use super::{DURATION, ENDED, HTTP_CLIENT, HTTP_SERVER, REQUESTS, RPC_CLIENT, RPC_SERVER};

/// What OpenTelemetry's families are made of.
struct Ended<'a> {
    direction: &'a str,
    destination: &'a str,
    route: &'a str,
    protocol: &'a str,
    status: &'a str,
    grpc_status: &'a str,
    error: &'a str,
    method: &'a str,
    port: &'a str,
    rpc_method: &'a str,
}

/// Makes the families known.
pub(super) fn declare(registry: &Registry) {
    // The contract's labels are the first ones.
    registry.view(&REQUESTS, &ENDED, |values| Some(values.first_chunk::<9>()?.map(str::to_owned)));
    registry.view(&DURATION, &ENDED, |values| {
        // The same less the status.
        let [direction, source, destination, route, protocol, _, grpc_status, error, tls] =
            *values.first_chunk::<9>()?;
        let all = [direction, source, destination, route, protocol, grpc_status, error, tls];
        Some(all.map(str::to_owned))
    });
    registry.view(&HTTP_SERVER, &ENDED, |values| {
        let it = Ended::of(values).of_http("inbound")?;
        let (version, error) = (it.version(), it.error_type());
        Some([it.method, "http", it.status, it.route, version, &error].map(str::to_owned))
    });
    registry.view(&HTTP_CLIENT, &ENDED, |values| {
        let it = Ended::of(values).of_http("outbound")?;
        let (address, version, error) = (it.address(), it.version(), it.error_type());
        Some([it.method, &address, it.port, it.status, version, &error].map(str::to_owned))
    });
    registry.view(&RPC_SERVER, &ENDED, |values| {
        let it = Ended::of(values).of_grpc("inbound")?;
        let (code, error) = (it.code(), it.error_type());
        Some(["grpc", it.rpc_method, &code, &error].map(str::to_owned))
    });
    registry.view(&RPC_CLIENT, &ENDED, |values| {
        let it = Ended::of(values).of_grpc("outbound")?;
        let (address, code, error) = (it.address(), it.code(), it.error_type());
        Some(["grpc", it.rpc_method, &address, it.port, &code, &error].map(str::to_owned))
    });
}

impl<'a> Ended<'a> {
    fn of(values: &[&'a str; 12]) -> Self {
        let [
            direction,
            _,
            destination,
            route,
            protocol,
            status,
            grpc_status,
            error,
            _,
            method,
            port,
            rpc_method,
        ] = *values;
        Self { direction, destination, route, protocol, status, grpc_status, error, method, port, rpc_method }
    }

    /// Where there are too many to tell apart, it is not known which way they went.
    fn of_http(self, direction: &str) -> Option<Self> {
        (self.direction == direction && self.protocol != "grpc").then_some(self)
    }

    fn of_grpc(self, direction: &str) -> Option<Self> {
        (self.direction == direction && self.protocol == "grpc").then_some(self)
    }

    fn version(&self) -> &'static str {
        if self.protocol == "http/2" { "2" } else { "1.1" }
    }

    /// As DNS names it.
    fn address(&self) -> String {
        match self.destination.split_once('/') {
            Some((namespace, name)) => format!("{name}.{namespace}"),
            None => self.destination.to_owned(),
        }
    }

    fn code(&self) -> String {
        self.grpc_status.parse().map(grpc_code).unwrap_or_default()
    }

    /// Empty where nothing went wrong, for whoever's part it is: a server answers for its own faults only.
    fn error_type(&self) -> String {
        if !self.error.is_empty() {
            return self.error.to_owned();
        }
        let Ok(status) = self.status.parse() else { return String::new() };
        let grpc: Option<u8> = self.grpc_status.parse().ok();
        match (classify(status, grpc), self.direction) {
            (Outcome::Failure, _) | (Outcome::CallerError, "outbound") => match grpc {
                Some(code) if code != 0 => grpc_code(code),
                _ => status.to_string(),
            },
            _ => String::new(),
        }
    }
}
