//! The errors that the mesh itself answers with: one code each, and what it means in HTTP and in gRPC.

use std::fmt;

use weft_core::breaker::Verdict;
use weft_core::model::Abort;

/// What `weft-error` says. A response that carries one was made by a sidecar, never by an app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// The service has no endpoint that may be called.
    NoEndpoints,
    /// The connection to the endpoint could not be made.
    ConnectFailed,
    /// The connection to the endpoint was not made in time.
    ConnectTimeout,
    /// The response did not come in time.
    Timeout,
    /// The circuit breaker holds calls back.
    CircuitOpen,
    /// The adaptive concurrency limit is reached.
    Overloaded,
    /// The queue for a connection is full.
    QueueFull,
    /// A rate limit is used up.
    RateLimited,
    /// A policy says no.
    Denied,
    /// The caller did not prove who it is.
    Unauthenticated,
    /// No route matches.
    NoRoute,
    /// The route leads nowhere.
    NoBackend,
    /// The request is malformed.
    BadRequest,
    /// The request's head is larger than what is accepted.
    HeaderTooLarge,
    /// A fault was injected, with the status that was asked for.
    FaultInjected(Abort),
    /// The endpoint broke off.
    UpstreamReset,
    /// The endpoint does not speak the protocol.
    ProtocolError,
    /// The TLS handshake failed, or the peer was not who it had to be.
    TlsFailed,
    /// The sidecar is going away.
    Draining,
}

impl ErrorCode {
    /// Every code.
    pub const ALL: [Self; 19] = [
        Self::NoEndpoints,
        Self::ConnectFailed,
        Self::ConnectTimeout,
        Self::Timeout,
        Self::CircuitOpen,
        Self::Overloaded,
        Self::QueueFull,
        Self::RateLimited,
        Self::Denied,
        Self::Unauthenticated,
        Self::NoRoute,
        Self::NoBackend,
        Self::BadRequest,
        Self::HeaderTooLarge,
        Self::FaultInjected(Abort { status: 503, grpc_status: 14 }),
        Self::UpstreamReset,
        Self::ProtocolError,
        Self::TlsFailed,
        Self::Draining,
    ];

    /// What it tells of the endpoint that the request was sent to.
    pub fn verdict(self) -> Verdict {
        match self {
            Self::ConnectFailed
            | Self::ConnectTimeout
            | Self::Timeout
            | Self::UpstreamReset
            | Self::ProtocolError
            | Self::TlsFailed => Verdict::Failed,
            Self::NoEndpoints
            | Self::CircuitOpen
            | Self::Overloaded
            | Self::QueueFull
            | Self::RateLimited
            | Self::Denied
            | Self::Unauthenticated
            | Self::NoRoute
            | Self::NoBackend
            | Self::BadRequest
            | Self::HeaderTooLarge
            | Self::FaultInjected(_)
            | Self::Draining => Verdict::Unknown,
        }
    }

    /// The code, the HTTP status and the gRPC status: the one table.
    const fn row(self) -> (&'static str, u16, u8) {
        match self {
            Self::NoEndpoints => ("no-endpoints", 503, 14),
            Self::ConnectFailed => ("connect-failed", 502, 14),
            Self::ConnectTimeout => ("connect-timeout", 504, 14),
            Self::Timeout => ("timeout", 504, 4),
            Self::CircuitOpen => ("circuit-open", 503, 14),
            Self::Overloaded => ("overloaded", 503, 14),
            Self::QueueFull => ("queue-full", 503, 14),
            Self::RateLimited => ("rate-limited", 429, 8),
            Self::Denied => ("denied", 403, 7),
            Self::Unauthenticated => ("unauthenticated", 401, 16),
            Self::NoRoute => ("no-route", 404, 12),
            Self::NoBackend => ("no-backend", 500, 14),
            Self::BadRequest => ("bad-request", 400, 13),
            Self::HeaderTooLarge => ("header-too-large", 431, 8),
            Self::FaultInjected(abort) => ("fault-injected", abort.status, abort.grpc_status),
            Self::UpstreamReset => ("upstream-reset", 502, 14),
            Self::ProtocolError => ("protocol-error", 502, 13),
            Self::TlsFailed => ("tls-failed", 502, 14),
            Self::Draining => ("draining", 503, 14),
        }
    }

    /// As `weft-error`, the metrics and the spans spell it.
    pub const fn as_str(self) -> &'static str {
        self.row().0
    }

    /// The HTTP status that it is answered with.
    pub const fn status(self) -> u16 {
        self.row().1
    }

    /// The gRPC status that it is answered with.
    pub const fn grpc_status(self) -> u8 {
        self.row().2
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_spelt_once_and_has_an_error_status() {
        let spelt: std::collections::HashSet<_> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(spelt.len(), ErrorCode::ALL.len());
        for code in ErrorCode::ALL {
            assert!(weft_core::why::advice(code.as_str()).is_some(), "{code}");
            assert!((400..600).contains(&code.status()) && (1..=16).contains(&code.grpc_status()), "{code}");
        }
    }
}
