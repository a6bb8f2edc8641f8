//! What the mesh answers itself: a status, its code in `weft-error`, and for gRPC a status that its clients understand.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderValue, Response, StatusCode};

use crate::failure::ErrorCode;

/// The header that only the mesh sends.
pub(super) const WEFT_ERROR: HeaderName = HeaderName::from_static("weft-error");

/// The answer to a request that failed with `code`.
pub fn refusal(code: ErrorCode, grpc: bool) -> Response<Bytes> {
    let name = code.as_str();
    let mut response = Response::new(Bytes::new());
    response.headers_mut().insert(WEFT_ERROR, HeaderValue::from_static(name));
    if grpc {
        // Trailers-only (gRPC over HTTP/2, "Responses"): the status is always 200.
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from(u16::from(code.grpc_status())));
        headers.insert("grpc-message", HeaderValue::from_static(name));
    } else {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        *response.status_mut() =
            StatusCode::from_u16(code.status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        *response.body_mut() = format!("weft: {name}\n").into();
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_answered_in_http_and_in_grpc() {
        for code in ErrorCode::ALL {
            let http = refusal(code, false);
            assert_eq!(http.status().as_u16(), code.status());
            assert_eq!(http.headers()["weft-error"], code.as_str());
            let grpc = refusal(code, true);
            assert_eq!(grpc.status(), StatusCode::OK);
            assert_eq!(grpc.headers()["grpc-status"], code.grpc_status().to_string());
            assert_eq!(grpc.headers()["weft-error"], code.as_str());
            assert!(grpc.body().is_empty());
        }
    }
}
