//! What became of a request: one of a few outcomes, told from status, gRPC status and how it ended.

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It was answered.
    Success,
    /// It was answered, and the answer is that the caller asked wrongly.
    CallerError,
    /// It failed on the answering side, or was never answered.
    Failure,
}

/// gRPC statuses that blame the answering side (semantic conventions for RPC servers).
const GRPC_SERVER_ERRORS: [u8; 6] = [
    2,  // UNKNOWN
    4,  // DEADLINE_EXCEEDED
    12, // UNIMPLEMENTED
    13, // INTERNAL
    14, // UNAVAILABLE
    15, // DATA_LOSS
];

/// Tells the outcome of an answered request; `grpc_status` where the response carried one.
pub fn classify(status: u16, grpc_status: Option<u8>) -> Outcome {
    match (status, grpc_status) {
        (500.., _) => Outcome::Failure,
        (_, Some(0)) => Outcome::Success,
        (_, Some(code)) if GRPC_SERVER_ERRORS.contains(&code) || code > 16 => Outcome::Failure,
        (_, Some(_)) | (400..500, None) => Outcome::CallerError,
        (_, None) => Outcome::Success,
    }
}

/// Reads a `grpc-status` header or trailer.
pub fn grpc_status(value: &[u8]) -> Option<u8> {
    // A sign, which Rust's numbers may have, is none of the protocol's.
    if !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// Whether the answer came so fast, or says so little, that it must not speak for the endpoint's speed: an endpoint
/// that fails at once would look like the fastest of all.
pub fn speaks_for_speed(outcome: Outcome) -> bool {
    outcome != Outcome::Failure
}

/// gRPC's names of its codes, by number.
const GRPC_CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// A gRPC status as text; a number that is none's as itself.
pub fn grpc_code(code: u8) -> String {
    GRPC_CODES.get(usize::from(code)).map_or_else(|| code.to_string(), |name| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_and_grpc_status_are_told_apart() {
        for (status, grpc, expected) in [
            (200, None, Outcome::Success),
            (304, None, Outcome::Success),
            (101, None, Outcome::Success),
            (404, None, Outcome::CallerError),
            (500, None, Outcome::Failure),
            (503, Some(0), Outcome::Failure),
            (200, Some(0), Outcome::Success),
            (200, Some(5), Outcome::CallerError),
            (200, Some(14), Outcome::Failure),
            (200, Some(99), Outcome::Failure),
        ] {
            assert_eq!(classify(status, grpc), expected, "{status} {grpc:?}");
        }
    }

    #[test]
    fn grpc_statuses_are_numbers() {
        assert_eq!(grpc_status(b"14"), Some(14));
        for bad in [&b""[..], b"x", b"-1", b"+14", b"256", &[0xff]] {
            assert_eq!(grpc_status(bad), None);
        }
    }
}
