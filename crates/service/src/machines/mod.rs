//! The verbs of machines, one file each.

mod boot;
mod commit;
mod create;
mod delete;
mod inspect;
mod ports;
mod rename;
mod set;
mod stop;
