//! The verbs of machines, one file each.

mod boot;
mod check;
mod clone;
mod commit;
mod create;
mod delete;
mod disk_boot;
mod export;
mod import;
mod inspect;
mod layers;
mod memory;
mod ports;
mod rename;
mod set;
mod snapshots;
mod ssh;
mod stop;
mod suspend;

pub(crate) use clone::CloneError;
pub(crate) use snapshots::remove_expired;
