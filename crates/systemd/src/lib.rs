//! The host's systemd, if it has one.
//!
//! A process belongs to the cgroup of the process that started it, and ends with it: with a unit,
//! a job of CI, or an application of the desktop. So the service and the runtimes of machines
//! [join](Scope::join) scopes of their own (systemd.scope(5)), which end with their processes.
//!
//! Root's scopes belong to the system's service manager, those of a user to the user's, which ends
//! at the last logout unless the user lingers: [`at_logout`].
//!
//! Everything here has a short timeout, and works or fails without an effect on the process.
//!
//! ```no_run
//! use std::time::Duration;
//! use container_systemd::Scope;
//!
//! # async fn example() {
//! let scope = Scope {
//!     name: "container-machine-dev-3f9a21.scope".to_owned(),
//!     description: "Machine dev".to_owned(),
//!     stop_timeout: Duration::from_secs(100),
//! };
//! if let Err(error) = scope.join().await {
//!     eprintln!("{error}");
//! }
//! # }
//! ```

mod logout;
mod manager;
mod scope;

use std::time::Duration;

pub use logout::{Logout, at_logout};
pub use manager::NoManager;
pub use scope::{Scope, ScopeError};

/// Timeout for everything that one function asks systemd for. A start waits for it.
const TIMEOUT: Duration = Duration::from_secs(3);
