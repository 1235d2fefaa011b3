//! Requests, replies and errors on the wire between client and service: JSON over HTTP on the
//! service's Unix socket.
//!
//! | request | body | reply |
//! |---|---|---|
//! | `GET /v1/ping` | | [`Pong`] |
//! | `POST /v1/retire` | | nothing; the service ends when it has no more to do |
//! | `GET /v1/machines` | | [`Machines`] |
//! | `POST /v1/machines` | [`CreateRequest`] | a stream that ends with [`Created`] |
//! | `GET /v1/machines/{id}` | | [`Snapshot`] |
//! | `PATCH /v1/machines/{id}` | [`BootChange`] | [`Changed`] |
//! | `DELETE /v1/machines/{id}` | | [`Deleted`] |
//! | `POST /v1/machines/{id}/boot` | | a stream that ends with [`Running`] |
//! | `POST /v1/machines/{id}/stop` | | nothing |
//! | `POST /v1/machines/{id}/rename` | [`Rename`] | nothing |
//! | `POST /v1/machines/{id}/commit` | [`CommitRequest`] | a stream that ends with [`Committed`] |
//! | `GET /v1/machines/{id}/logs` | | [`Logs`] |
//! | `POST /v1/registries/login` | [`LogIn`] | [`Login`] |
//! | `POST /v1/registries/logout` | [`LogOut`] | [`LoggedOut`] |
//! | `POST /v1/registries/logins` | [`ListLogins`] | [`Logins`] |
//! | `GET /v1/images` | | [`Images`] |
//! | `POST /v1/images/pull` | [`PullRequest`] | a stream that ends with [`Pulled`] |
//! | `POST /v1/images/push` | [`PushRequest`] | a stream that ends with [`Pushed`] |
//! | `POST /v1/images/inspect` | [`InspectRequest`] | an array of [`ImageDetails`] |
//! | `POST /v1/images/tag` | [`TagRequest`] | [`Tagged`] |
//! | `POST /v1/images/remove` | [`RemoveRequest`] | a stream that ends with [`Freed`] |
//! | `POST /v1/images/prune` | [`PruneRequest`] | a stream that ends with [`Freed`] |
//! | `POST /v1/images/load` | a tar stream | a stream that ends with [`Loaded`] |
//! | `POST /v1/images/save` | [`SaveRequest`] | a tar stream; see [`FAILURE_TRAILER`] |
//! | `GET /v1/system` | | [`SystemInfo`] |
//! | `GET /v1/default` | | [`DefaultMachine`] |
//! | `PUT /v1/default` | [`DefaultMachine`] | nothing |
//!
//! A stream is one [`StreamEvent`] a line. Every failure is a [`Failure`], in the body of a
//! reply whose status is not 200, or as the last event of a stream. A client that goes away while
//! its machine is being created or committed gives it up; everything else is carried through.

mod commit;
mod environment;
mod image;
mod machine;
mod registry;
mod stream;
mod system;

pub use commit::{CommitRequest, Committed};
pub use environment::CallerEnvironment;
pub use image::{
    ArchiveFormat, Freed, ImageBase, ImageConfig, ImageDetails, ImageHistory, ImageSummary, Images,
    InspectRequest, Loaded, LoadedImage, PruneRequest, PullRequest, Pulled, PushRequest, Pushed,
    RemoveRequest, SaveRequest, TagRequest, Tagged,
};
pub use machine::{
    BootChange, Changed, CreateRequest, Created, DefaultMachine, Deleted, Logs, Machines, Ports,
    Rename, Running, Snapshot, Status,
};
pub use registry::{ListLogins, LogIn, LogOut, LoggedOut, Login, Logins, Password};
pub use stream::{Layers, Progress, Step, StreamEvent};
pub use system::{
    Ability, AcceleratorInfo, Directories, EngineInfo, HostInfo, KernelInfo, NotUsed,
    RecommendedKernel, SystemInfo,
};

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The argument with which the program is the service.
pub const SERVICE_ROLE: &str = "__service";

/// The trailer of a tar stream that broke off: the [`Failure`] that says why, as JSON. A stream without
/// this trailer is whole.
pub const FAILURE_TRAILER: &str = "container-failure";

/// A living service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    /// Tells one build of the program from another. A client only talks to its own.
    pub build: String,
    /// The data directory whose machines it keeps.
    pub data: PathBuf,
}

/// Why a request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// For programs.
    pub kind: FailureKind,
    /// For people: what was being done, what went wrong, what to do about it.
    pub message: String,
}

/// Kinds of failure that a program may tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FailureKind {
    /// There is no such machine.
    NotFound,
    /// There is one already.
    Exists,
    /// The request itself is wrong.
    Invalid,
    /// Anything else.
    Failed,
}
