//! Archives from several tar programs, with many and unusual members, are unpacked into file
//! systems that e2fsck finds clean and that contain what other programs unpack from the same
//! archives.
//!
//! `cargo test` runs a quick part. `make image-corpus` runs all of it: it needs root, loop devices
//! and the packages that it installs. Where file systems cannot be mounted, nothing is compared.

mod comparisons;
mod disk;
mod listing;
mod registry;
mod sources;
mod umoci;
mod writers;
