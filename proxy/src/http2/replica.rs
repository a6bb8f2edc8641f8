//! A copy of a request of HTTP/2 for a mirror: sent whole, its answer read to the end and dropped.

use bytes::Bytes;
use http::{Request, request};

use super::saved::Saved;
use crate::failure::ErrorCode;
use crate::upstream::http2::find;
use crate::upstream::{Attempts, Cluster};
use crate::worker::Worker;

/// The head of a request that is copied.
#[derive(Debug)]
pub struct Replica(Saved);

impl Replica {
    /// Of a request that begins with this head.
    pub(super) fn of(head: &request::Parts) -> Self {
        Self(Saved::of(head))
    }

    /// Sends it to one of `cluster`'s endpoints and waits until it has been answered.
    pub async fn send(&self, worker: &Worker, cluster: &Cluster, body: Bytes) -> Result<(), ErrorCode> {
        let mut place = find(worker, cluster, &mut Attempts::default()).await?;
        let request = Request::from_parts(self.0.restore(), ());
        let (response, mut sender) =
            place.send(request, body.is_empty()).map_err(|_| ErrorCode::UpstreamReset)?;
        if !body.is_empty() {
            // All at once: it is no more in the stream's queue than it was here.
            sender.send_data(body, true).map_err(|_| ErrorCode::UpstreamReset)?;
        }
        let mut body = response.await.map_err(|_| ErrorCode::UpstreamReset)?.into_body();
        place.answered();
        while let Some(piece) = body.data().await {
            let piece = piece.map_err(|_| ErrorCode::UpstreamReset)?;
            // Fails only where the stream is gone, which the next piece tells.
            let _ = body.flow_control().release_capacity(piece.len());
        }
        body.trailers().await.map(drop).map_err(|_| ErrorCode::UpstreamReset)
    }
}
