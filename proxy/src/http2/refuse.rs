//! What the mesh answers itself in HTTP/2.

use bytes::Bytes;
use h2::SendStream;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use crate::failure::ErrorCode;
use crate::http::{Exchange, refusal};
use crate::session::Explained;

/// Answers a request that failed with `code`.
pub(super) fn refuse(respond: &mut SendResponse<Bytes>, exchange: &Exchange, code: ErrorCode, grpc: bool) {
    send(respond, exchange, refusal(code, grpc), code);
}

/// The same with more to say.
pub(super) fn refuse_explained(
    respond: &mut SendResponse<Bytes>,
    exchange: &Exchange,
    explained: Explained,
    grpc: bool,
) {
    let mut response = refusal(explained.code, grpc);
    response.headers_mut().extend(explained.fields);
    send(respond, exchange, response, explained.code);
}

/// The same with a status that says more than the code's own.
pub(super) fn refuse_as(
    respond: &mut SendResponse<Bytes>,
    exchange: &Exchange,
    status: StatusCode,
    code: ErrorCode,
) {
    let mut response = refusal(code, false);
    *response.status_mut() = status;
    send(respond, exchange, response, code);
}

/// Answers in the mesh's name where nothing is wrong.
pub(super) fn answer(respond: &mut SendResponse<Bytes>, exchange: &Exchange, mut response: Response<()>) {
    exchange.amend_response(response.headers_mut());
    exchange.answered_by_mesh(response.status().as_u16());
    // Fails only where the caller is gone.
    let _ = respond.send_response(response, true);
}

fn send(respond: &mut SendResponse<Bytes>, exchange: &Exchange, response: Response<Bytes>, code: ErrorCode) {
    let (head, body) = response.into_parts();
    exchange.refused(head.status.as_u16(), code);
    // Fails only where the caller is gone.
    if let Ok(mut stream) = respond.send_response(Response::from_parts(head, ()), body.is_empty())
        && !body.is_empty()
    {
        let _ = stream.send_data(body, true);
    }
}

/// Ends a gRPC response that has begun, by a status that says `code`.
pub(super) fn cut_short(stream: &mut SendStream<Bytes>, exchange: &Exchange, code: ErrorCode) {
    exchange.failed(code);
    let name = HeaderValue::from_static(code.as_str());
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(u16::from(code.grpc_status())));
    trailers.insert("grpc-message", name.clone());
    trailers.insert("weft-error", name);
    exchange.trailers(&trailers);
    let _ = stream.send_trailers(trailers);
}
