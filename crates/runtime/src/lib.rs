//! A running machine: its engine, its file share, its network, the channel to its guest, and its
//! logs.
//!
//! Every machine runs in a process of its own, the *runtime*. [`launch()`] starts one,
//! [`Runtime::find`] finds one that runs. The runtime owns the processes of the machine, the engine
//! and the file share, and they end when it ends, however it ends. Its runtime directory holds:
//!
//! | file | content |
//! |---|---|
//! | `runtime.sock` | the socket for clients ([`container_protocol::local`]) |
//! | `initramfs` | the agent, kernel modules and interpreters that the kernel boots with |
//! | `vmlinux` | the kernel, if it had to be unpacked; removed when the machine has booted |
//! | `stand-in.sock` | the socket of what remains of a runtime whose machine is suspended because it was idle |
//! | `modules.cpio` | kernel modules, if they had to be unpacked |
//! | `sockets` | forwarded sockets of the machine for which no other path is chosen |
//!
//! A machine is running exactly while its runtime holds the lock in the machine's bundle.
//! Everything else is asked at the socket. No other file records the state, so a crash cannot leave
//! a wrong one behind. A socket that was removed, for example with the directory of a login
//! session, is created again within seconds.
//!
//! | module | is responsible for |
//! |---|---|
//! | `launch`, `handle`, `changes`, `disk_check` | what the service calls: start, find, stop, commit, check |
//! | `process`, `file_share` | two roles of the program: the runtime, its file share |
//! | `templates` | booted virtual machines to start machines from, and the role that saves them |
//! | `boot`, `assemble`, `setup` | the way from a [`Launch`] to a machine that has booted |
//! | `supervise`, `agent_control` | a machine that has booted, to its end |
//! | `suspend`, `resume`, `suspended` | a machine that is saved to its bundle, and continues later |
//! | `snapshot`, `pausable` | a machine that is saved and continues at once |
//! | `idle`, `stand_in` | suspending a machine that is idle, and resuming it when it is used |
//! | `phase`, `state` | the machine's phase, and all that tasks share |
//! | `clients`, `guest_link`, `guest_streams`, `home_relay`, `host_socket`, `splice`, `listening` | connections of clients, and streams of the guest |
//! | `shares`, `mounts` | the processes that serve directories, and directories that are mounted besides the home |
//! | `sockets`, `socket_forwarding`, `ssh_agents` | sockets that are forwarded between machine and host |
//! | `checksum`, `console`, `entropy`, `heartbeat`, `crash`, `free_space`, `log`, `ports`, `file_identity`, `file_watch`, `guest_files`, `held_files`, `kernel_files` | single parts of the above |
//!
//! ```no_run
//! use container_runtime::{Launch, launch};
//!
//! # async fn example(settings: Launch) -> Result<(), Box<dyn std::error::Error>> {
//! let runtime = launch(&settings).await?;
//! println!("commands are served at {}", runtime.socket().display());
//! runtime.stop(std::time::Duration::from_secs(60)).await?;
//! # Ok(())
//! # }
//! ```

mod agent_control;
mod assemble;
mod boot;
mod boot_error;
mod changes;
mod checksum;
mod clients;
mod clock;
mod console;
mod crash;
mod disk;
mod disk_check;
mod entropy;
mod file_identity;
mod file_share;
mod file_watch;
mod free_space;
mod guest_files;
mod guest_link;
mod guest_streams;
mod handle;
mod heartbeat;
mod held_files;
mod home_relay;
mod host_socket;
mod idle;
mod kernel_files;
mod launch;
mod listening;
mod log;
mod mounts;
mod pausable;
mod phase;
mod ports;
mod process;
mod refusals;
mod resolver;
mod resume;
mod role;
mod setup;
mod shares;
mod snapshot;
mod socket_forwarding;
mod sockets;
mod splice;
mod ssh_agents;
mod stand_in;
mod state;
mod supervise;
mod suspend;
mod suspended;
mod templates;

pub use changes::{Changes, ChangesError, Stopper};
pub use container_file_share::check_events as check_file_events;
pub use container_network::Policy;
pub use disk::{FrozenDisk, LayerError};
pub use disk_check::DiskCheckError;
pub use file_share::file_share_main;
pub use guest_files::{GuestFilesError, check_architecture, check_guest_files};
pub use handle::{FindError, Runtime, RuntimeStatus, SnapshotError, StopError, SuspendError};
pub use host_socket::has_refused_links;
pub use launch::{HomeShare, Launch, LaunchError, NetworkLaunch, Purpose, RunSettings, launch};
pub use mounts::MAX_MOUNTS;
pub use process::runtime_main;
pub use role::{FILE_SHARE_ROLE, RUNTIME_ROLE, TEMPLATE_ROLE};
pub use stand_in::end_stand_in;
pub use suspended::{
    MemoryError, discard, is_same_memory, keep_memory, replace_by_disk, restore_memory,
};
pub use templates::{
    RemovedTemplates, TemplateUsage, remove_templates, template_main, template_usage,
};
