//! The per-user service: manages images and machines, and answers the requests of
//! [`container_api`].
//!
//! The service keeps no state of its own: the state is in the data directory and in the runtime
//! processes. It may be killed at any moment. Machines keep running, and the next service finds
//! them. One service runs for each runtime directory, and it ends after ten minutes without a
//! request.
//!
//! | module | content |
//! |---|---|
//! | `process` | the process: lock, clean-up, socket, idle time |
//! | `http` | routes, request bodies, replies |
//! | `machines` | one file for each verb of a machine |
//! | `images` | one file for each verb of images |
//! | `registries`, `system`, `disk_usage` | the verbs of registries and of the system |
//! | `doctor` | checks of the host, in a process of their own |
//! | `moved_bases` | base images after the data directory got another path |
//! | `launch`, `runtime` | booting, finding and stopping the runtime of a machine |
//! | `checks`, `published_ports`, `forwarded_sockets`, `mounts` | refusals before a boot, and problems with ports, sockets and mounts |
//! | `boot_change` | changes of a machine's boot configuration, of `create` and `set` |
//! | `machine_archive` | format of exported machines |
//! | `archive_stream` | archives as bodies of requests and replies |
//! | `ssh_key` | generating and reading keys for SSH |
//! | `pull_options`, `progress`, `stream_client` | parts of the verbs that stream progress |
//! | `service`, `locks`, `activity` | shared state: stores, locks per machine, running requests |
//! | `configuration`, `host_resources` | `config.toml`; CPUs and memory of the host |
//! | `failure`, `build`, `timestamp` | error kinds, build id, times in replies |
//!
//! Verbs import shared modules and never each other. Each operation has its own error type, which
//! says of which [`FailureKind`](container_api::FailureKind) it is.
//!
//! # Example
//!
//! The program runs the service when it is started with the role's argument:
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! fn main() -> ExitCode {
//!     if std::env::args().nth(1).as_deref() == Some(container_api::SERVICE_ROLE) {
//!         return container_service::service_main();
//!     }
//!     ExitCode::SUCCESS
//! }
//! ```

mod activity;
mod archive_stream;
mod boot_change;
mod build;
mod checks;
mod configuration;
mod disk_usage;
mod doctor;
mod exclusions;
mod failure;
mod forwarded_sockets;
mod host_resources;
mod http;
mod images;
mod launch;
mod locks;
mod machine_archive;
mod machines;
mod mounts;
mod moved_bases;
mod process;
mod progress;
mod published_ports;
mod pull_options;
mod registries;
mod retirement;
mod runtime;
mod service;
mod ssh_key;
mod stream_client;
mod system;
mod timestamp;

pub use build::build_id;
pub use doctor::doctor_main;
pub use process::service_main;
