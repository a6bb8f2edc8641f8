//! backup.

use std::time::SystemTime;

use tokio_stream::Iter;
use tonic::{Request, Status};
use weft_proto::v1;

use super::AdminService;
use crate::report::chain;
use crate::tokens::Administrator;

/// Bytes of one message.
const CHUNK: usize = 1 << 20;

/// A backup on its way.
pub(crate) type Chunks = Iter<std::vec::IntoIter<Result<v1::BackupChunk, Status>>>;

impl AdminService {
    /// The mesh's keys are in it: an administrator's token, which can be taken back, does not take them along.
    pub(super) async fn take_backup<T>(&self, request: &Request<T>) -> Result<Chunks, Status> {
        if request.extensions().get::<Administrator>().is_none_or(|caller| caller.token.is_some()) {
            let reason = "a backup holds the keys of the mesh: it wants the admin token itself";
            return Err(Status::permission_denied(reason));
        }
        let text = self.store.back_up(SystemTime::now()).await;
        let text = text.map_err(|error| Status::unavailable(chain(&error)))?;
        tracing::info!(bytes = text.len(), "backed up");
        let chunks: Vec<_> =
            text.chunks(CHUNK).map(|data| Ok(v1::BackupChunk { data: data.to_vec() })).collect();
        Ok(tokio_stream::iter(chunks))
    }
}
