//! The interface between client and service: JSON over HTTP on the service's Unix socket.
//!
//! | request | body | reply |
//! |---|---|---|
//! | `GET /v1/ping` | | [`Pong`] |
//! | `POST /v1/retire` | | empty; the service ends when no request is in progress |
//! | `GET /v1/machines` | | [`Machines`] |
//! | `POST /v1/machines` | [`CreateRequest`] | stream with [`Created`] |
//! | `GET /v1/machines/{id}` | | [`MachineState`] |
//! | `PATCH /v1/machines/{id}` | [`BootChange`] | [`Changed`] |
//! | `DELETE /v1/machines/{id}` | | [`Deleted`] |
//! | `POST /v1/machines/{id}/boot` | [`BootRequest`] | stream with [`Running`] |
//! | `POST /v1/machines/{id}/stop` | [`StopRequest`] | empty |
//! | `POST /v1/machines/{id}/suspend` | [`SuspendRequest`] | stream, empty |
//! | `POST /v1/machines/{id}/rename` | [`RenameRequest`] | empty |
//! | `POST /v1/machines/{id}/clone` | [`CloneRequest`] | [`Created`] |
//! | `GET /v1/machines/{id}/snapshots` | | [`Snapshots`] |
//! | `POST /v1/machines/{id}/snapshots` | [`SnapshotRequest`] | empty |
//! | `POST /v1/machines/{id}/snapshots/restore` | [`RestoreRequest`] | empty |
//! | `POST /v1/machines/{id}/snapshots/remove` | [`RemoveSnapshotRequest`] | empty |
//! | `POST /v1/machines/{id}/check` | [`CheckMachineRequest`] | stream with [`CheckedMachine`] |
//! | `POST /v1/machines/{id}/commit` | [`CommitRequest`] | stream with [`Committed`] |
//! | `POST /v1/machines/{id}/export` | [`ExportRequest`] | archive, see [`FAILURE_TRAILER`] |
//! | `POST /v1/import?…`, an [`ImportRequest`] | archive | stream with [`Created`] |
//! | `GET /v1/machines/{id}/logs` | | [`Logs`] |
//! | `GET /v1/machines/{id}/ports` | | [`Ports`] |
//! | `POST /v1/machines/{id}/ssh` | | [`SshServer`](container_protocol::SshServer) |
//! | `POST /v1/ssh` | | [`SshClientFiles`] |
//! | `POST /v1/registries/login` | [`LoginRequest`] | [`Login`] |
//! | `POST /v1/registries/logout` | [`LogoutRequest`] | [`LoggedOut`] |
//! | `POST /v1/registries/logins` | [`ListLoginsRequest`] | [`Logins`] |
//! | `GET /v1/images` | | [`Images`] |
//! | `POST /v1/images/pull` | [`PullRequest`] | stream with [`Pulled`] |
//! | `POST /v1/images/push` | [`PushRequest`] | stream with [`Pushed`] |
//! | `POST /v1/images/inspect` | [`InspectRequest`] | array of [`ImageDetails`] |
//! | `POST /v1/images/tag` | [`TagRequest`] | [`Tagged`] |
//! | `POST /v1/images/remove` | [`RemoveRequest`] | stream with [`Freed`] |
//! | `POST /v1/images/prune` | [`PruneRequest`] | stream with [`Freed`] |
//! | `POST /v1/images/load` | tar stream | stream with [`Loaded`] |
//! | `POST /v1/images/save` | [`SaveRequest`] | tar stream, see [`FAILURE_TRAILER`] |
//! | `GET /v1/system` | | [`SystemInfo`] |
//! | `GET /v1/system/disk-usage` | | [`DiskUsage`] |
//! | `POST /v1/system/prune` | [`PruneRequest`] | stream with [`Freed`] |
//! | `GET /v1/default` | | [`DefaultMachine`] |
//! | `PUT /v1/default` | [`DefaultMachine`] | empty |
//!
//! A stream has one [`StreamEvent`] per line, and ends with the reply of the table. An error is a
//! [`Failure`]: the body of a reply with another status than 200, or the last event of a stream.
//!
//! If the client disconnects, a create, an import, a suspend, a check without a repair, a commit, a
//! pull and a push are cancelled; every other request is completed.
//!
//! # Modules
//!
//! | module | content |
//! |---|---|
//! | `machine`, `snapshot`, `archive`, `check`, `commit`, `image`, `registry`, `system`, `disk_usage` | requests and replies |
//! | `doctor` | checks of the host, which a role of the program prints |
//! | `ssh` | files of SSH clients |
//! | `stream` | events of streamed replies |
//! | `environment` | the caller's environment variables |
//!
//! # Example
//!
//! ```
//! use container_api::{Failure, FailureKind, Progress, StreamEvent};
//!
//! # fn main() -> Result<(), serde_json::Error> {
//! let step = StreamEvent::<()>::Progress(Progress::step("booting machine"));
//! let line = r#"{"progress":{"step":{"name":"booting machine"}}}"#;
//! assert_eq!(serde_json::to_string(&step)?, line);
//!
//! let line = r#"{"failed":{"kind":"notFound","message":"machine \"dev\" not found"}}"#;
//! let event: StreamEvent<()> = serde_json::from_str(line)?;
//! let failure = Failure {
//!     kind: FailureKind::NotFound,
//!     message: "machine \"dev\" not found".to_owned(),
//! };
//! assert_eq!(event, StreamEvent::Failed(failure));
//! # Ok(())
//! # }
//! ```

mod archive;
mod check;
mod commit;
mod disk_usage;
mod doctor;
mod environment;
mod image;
mod machine;
mod registry;
mod snapshot;
mod ssh;
mod stream;
mod system;

pub use archive::{ExportRequest, ImportRequest};
pub use check::{CheckMachineRequest, CheckedMachine};
pub use commit::{CommitRequest, Committed};
pub use disk_usage::{DiskUsage, Usage, UsageKind};
pub use doctor::{Check, CheckStatus, Diagnosis};
pub use environment::CallerEnvironment;
pub use image::{
    ArchiveFormat, Freed, ImageBase, ImageConfig, ImageDetails, ImageHistory, ImageSummary, Images,
    InspectRequest, Loaded, LoadedImage, PruneRequest, PullRequest, Pulled, PushRequest, Pushed,
    RemoveRequest, SaveRequest, TagRequest, Tagged,
};
pub use machine::{
    AllowChange, BootChange, BootRequest, Changed, CreateRequest, Created, DefaultMachine, Deleted,
    KernelChoice, Logs, MachineState, Machines, MountChange, Ports, RemovedMounts, RenameRequest,
    Running, Status, StopRequest, SuspendRequest,
};
pub use registry::{
    ListLoginsRequest, LoggedOut, Login, LoginRequest, Logins, LogoutRequest, Password,
};
pub use snapshot::{
    CloneRequest, RemoveSnapshotRequest, RestoreRequest, SnapshotRequest, SnapshotState, Snapshots,
};
pub use ssh::SshClientFiles;
pub use stream::{Layers, Progress, Step, StreamEvent};
pub use system::{
    Ability, AcceleratorChoice, AcceleratorInfo, DirectoryInfo, EngineInfo, HostInfo, KernelInfo,
    LogoutInfo, NotUsed, RecommendedKernel, SystemInfo,
};

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// First argument of the program in the role of the service.
pub const SERVICE_ROLE: &str = "__service";

/// First argument of the program in the role that checks the host. It prints a [`Diagnosis`] as
/// JSON.
pub const DOCTOR_ROLE: &str = "__doctor";

/// Second argument of the program in this role, with which it removes leftovers.
pub const DOCTOR_FIX: &str = "fix";

/// Trailer of an archive that ended early: the [`Failure`] as JSON, in ASCII. A stream without
/// this trailer is complete.
pub const FAILURE_TRAILER: &str = "container-failure";

/// Version of the requests and replies. It is increased by every change after which a client and a
/// service of different builds do not understand each other.
pub const API_VERSION: u32 = 1;

/// Reply of a running service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    /// [`API_VERSION`] of the service; 0 for a service that does not report it.
    #[serde(default)]
    pub api: u32,
    /// Identification of the service's build. A client replaces a service of another build, unless
    /// it is busy.
    pub build: String,
    /// Whether the service was asked to end while it was busy. It serves all clients of its
    /// [`API_VERSION`] until it is idle.
    #[serde(default)]
    pub is_retiring: bool,
    /// Data directory of the service. It may differ from the client's if the two have the same
    /// runtime directory.
    pub data: PathBuf,
}

/// Error of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Kind, for programs.
    pub kind: FailureKind,
    /// Message, for users: what was attempted, what went wrong, and what to do.
    pub message: String,
}

/// Kind of a [`Failure`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FailureKind {
    /// A machine, an image or credentials do not exist.
    NotFound,
    /// A machine with this id exists.
    Exists,
    /// The request is invalid, or cannot be fulfilled in this state or on this host.
    Invalid,
    /// Work would be lost that a request without `force` keeps.
    WouldLose,
    /// Any other error.
    Failed,
}
