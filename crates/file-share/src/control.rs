//! Requests of the runtime about the share as a whole, for suspending the machine.

use std::{fs::File, sync::Arc};

use container_protocol::frame::{self, FrameError};
use serde::{Deserialize, Serialize};

use crate::{backend::Backend, bounded::InnerFileSystem};

/// Request of the runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ShareRequest {
    /// Can the share be saved? It continues in either case.
    Check,
    /// Serve no more requests of the guest, and complete those in progress. The guest may only be
    /// saved or continued afterwards.
    Pause,
    /// Serve requests again, in a guest that continues or was restored.
    Continue,
}

/// Answer to a [`ShareRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ShareReply {
    /// It was done.
    Done {
        /// Paths of files that the guest had open when it was saved, and that cannot be found any
        /// more.
        lost: Vec<String>,
    },
    /// The share cannot be saved, and continues; the reason, a clause.
    Refused(String),
}

/// Serves the runtime until it closes the connection. The connection is a file, because this
/// process may not call recvfrom(2).
pub(crate) fn serve<F: InnerFileSystem>(backend: &Arc<Backend<F>>, connection: &File) {
    loop {
        let request = match frame::read_blocking(&mut &*connection) {
            Ok(request) => request,
            Err(FrameError::Ended) => return,
            Err(error) => return log::warn!("cannot receive requests of the runtime: {error}"),
        };
        let reply = match request {
            ShareRequest::Check => backend.check(),
            ShareRequest::Pause => backend.pause(),
            ShareRequest::Continue => {
                backend.continue_serving();
                Ok(())
            }
        };
        let reply = match reply {
            Ok(()) => ShareReply::Done {
                lost: backend.take_lost(),
            },
            Err(reason) => ShareReply::Refused(reason),
        };
        if let Err(error) = frame::write_blocking(&mut &*connection, &reply) {
            return log::warn!("cannot answer the runtime: {error}");
        }
    }
}
