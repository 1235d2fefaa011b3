//! Messages between client, runtime and guest agent.
//!
//! One byte stream connects a machine's runtime process with the agent in the guest. It starts with
//! [`ChannelRequest`] frames; after [`ChannelRequest::Serve`], [`mux`] carries many streams over
//! it. The first [`frame`] on a stream that the host opens is the [`Port`] that the stream is for.
//! The rest depends on the port:
//!
//! | port | host to guest | guest to host |
//! |---|---|---|
//! | [`Port::Control`] | [`ControlRequest`] frames | [`ControlEvent`] frames |
//! | [`Port::Command`] | one [`CommandRequest`], then [`CommandControl`]s | [`CommandEvent`]s |
//! | [`Port::Changes`] | one [`ChangesRequest`], then a listing of the base image | an archive |
//! | [`Port::Check`] | one [`CheckRequest`] | one [`CheckReply`] |
//! | [`Port::Freeze`] | | one [`FreezeReply`] |
//! | [`Port::Resolver`] | one [`ResolverSettings`] | |
//! | [`Port::HostSockets`] | one list of [`SocketPath`]s | one list of [`SocketProblem`]s |
//! | [`Port::Mounts`] | one [`MountRequest`] | one [`MountReply`] |
//! | [`Port::Socket`] | one [`SocketPath`], then bytes | one [`SocketReply`], then bytes |
//! | [`Port::Stdin`] | bytes | |
//! | [`Port::Stdout`], [`Port::Stderr`] | | bytes |
//! | [`Port::Terminal`] | bytes | bytes |
//!
//! Listing and archive are defined in `container_changes`. A command's bytes have streams of their
//! own, so that a signal is delivered while a pipe is full, and a slow reader only slows its own
//! writer. Streams that the agent opens start with a [`HostPort`].
//!
//! Programs on the host reach all this over the runtime's socket: see [`local`].
//!
//! ```
//! use container_protocol::{Port, frame};
//!
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! let mut stream = Vec::new();
//! frame::write(&mut stream, &Port::Control).await.unwrap();
//! let port: Port = frame::read(&mut stream.as_slice()).await.unwrap();
//! assert_eq!(port, Port::Control);
//! # });
//! ```

mod base64;
mod command;
mod egress;
pub mod frame;
mod home;
pub mod local;
mod machine;
mod mount;
pub mod mux;
mod os_text;
mod port;
mod published;
pub mod relay;
mod socket;
pub mod socket_file;
mod ssh;
mod suspend;
mod template;

pub use command::{
    CommandControl, CommandEvent, CommandLine, CommandRequest, ExitStatus, GroupReference,
    GuestCopy, HandedOn, Identity, Start, StartFailure, Stdio, TerminalSize, UserReference,
    WorkingDirectory,
};
pub use egress::{AllowRule, Egress, EgressMode, InvalidAllowRule, InvalidEgressMode};
pub use home::{
    HomeChange, HomeEntry, HomeFile, HomeNode, HomeReport, HomeRequest, HomeTouch,
    MAX_HOME_WATCHES, MAX_REPLAYED, REPLAY_DIRECTORY, REPLAY_SOURCE, REPLAY_TARGET,
};
pub use machine::{
    BootOccasion, ChangesRequest, CheckReply, CheckRequest, ControlEvent, ControlRequest,
    FileSystemState, FreezeReply, GuestGroup, GuestNetwork, GuestTimeZone, GuestUser, InitProgram,
    MachineSetup, ResolverSettings,
};
pub use mount::{GuestShare, MountProblem, MountReply, MountRequest};
pub use os_text::OsText;
pub use port::{CommandId, HostPort, Listener, Port, RELAY_PORT, SSH_AUTH_SOCKET, Transport};
pub use published::{InvalidPublishedPort, PublishedPort, PublishedPorts};
pub use socket::{
    InvalidSocketPath, SocketForward, SocketPath, SocketProblem, SocketReply, SocketSource,
};
pub use ssh::SshServer;
pub use suspend::{BREAK, ResumeToken};
pub use template::{ChannelEvent, ChannelRequest};
