//! The domain: machine ids, configurations, and the bundle on disk.

mod id;
mod user;

pub use id::{InvalidMachineId, MachineId};
pub use user::{UserSetup, home_directory};
