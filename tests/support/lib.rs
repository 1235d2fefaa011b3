//! Support for end-to-end tests.
//!
//! A [`World`] has the built program, installed with directories of its own. A [`Lab`] shares
//! worlds and a registry between tests, because they take long to create. A [`Terminal`] is a
//! person who types and reads. [`TcpRelay`], [`TokenService`], [`Author`] and [`Authority`] stand
//! for the other parties: a network, a registry's token service, an image's author, a certificate
//! authority.
//!
//! ```no_run
//! use end_to_end::{Lab, World};
//!
//! let lab = Lab::default();
//! let world = World::for_user();
//! world.create(&lab.image("busybox:1"), "dev", &[]);
//! assert_eq!(world.inside("dev", "echo hello"), "hello\n");
//! ```
#![allow(clippy::unwrap_used, clippy::panic)]

mod author;
mod authority;
mod lab;
mod outcome;
mod processes;
mod tcp_relay;
mod terminal;
mod token_service;
mod user;
mod world;

pub use author::Author;
pub use authority::{Authority, Certified};
pub use lab::{Lab, debian_kernel, our_kernel};
pub use outcome::Outcome;
pub use processes::{Process, eventually};
pub use tcp_relay::{Fault, TcpRelay};
pub use terminal::Terminal;
pub use token_service::{TokenRequest, TokenService};
pub use user::User;
pub use world::World;
