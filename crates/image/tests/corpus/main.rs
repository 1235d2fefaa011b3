//! Archives made to hurt, by the programs that make them, become file systems that e2fsck finds
//! nothing to say of and that hold what other programs unpack.
//!
//! The full form needs root, loop devices and the packages that `make image-corpus` installs;
//! where file systems cannot be mounted, nothing is compared.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod disk;
mod layers;
mod listing;
mod members;
mod registry;
mod sources;
mod truth;
