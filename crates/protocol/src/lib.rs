//! What runtime, client and guest agent say to each other.
//!
//! One byte stream joins the host's runtime process and the agent in the guest. [`mux`] carries
//! many streams over it. The first [`frame`] on a stream that the host opens names the
//! [`Port`] it is for; what follows is the port's own:
//!
//! | port | then |
//! |---|---|
//! | [`Port::Control`] | one [`ControlRequest`] a frame from the host, one [`ControlEvent`] a frame from the agent |
//! | [`Port::Command`] | one [`CommandRequest`], then [`CommandControl`]s from the host, [`CommandEvent`]s from the agent |
//! | [`Port::Changes`] | one [`ChangesRequest`], then what the machine's image has from the host, what differs in the machine from the agent (`container_changes`) |
//! | [`Port::Stdin`], [`Port::Stdout`], [`Port::Stderr`], [`Port::Terminal`] | bytes, nothing else |
//!
//! A command's bytes travel on streams of their own, so a signal passes a full pipe, and a
//! reader that is slow slows its own writer only. Streams that the agent opens start with a
//! [`HostPort`].
//!
//! A program on the host reaches all of this through the runtime's socket: see [`local`].

mod base64;
mod command;
pub mod frame;
pub mod local;
mod machine;
pub mod mux;
mod port;
mod published;

pub use command::{
    CommandControl, CommandEvent, CommandLine, CommandRequest, Copy, ExitStatus, Identity, Stdio,
    TerminalSize, UserReference, WorkingDirectory,
};
pub use machine::{
    ChangesRequest, ControlEvent, ControlRequest, GuestHome, HomeShare, InitProgram, MachineSetup,
    Network,
};
pub use port::{CommandId, HostPort, Listener, Port, RELAY_PORT, SSH_AUTH_SOCKET, Transport};
pub use published::{InvalidPublishedPort, PublishedPort, PublishedPorts};
