//! What end-to-end tests are made of: worlds with the built program in them, people who type,
//! and a lab that shares what takes long to make.
#![allow(clippy::unwrap_used, clippy::panic)]

mod author;
mod authority;
mod lab;
mod outcome;
mod processes;
mod terminal;
mod token_service;
mod user;
mod wire;
mod world;

pub use author::Author;
pub use authority::{Authority, Certified};
pub use lab::Lab;
pub use outcome::Outcome;
pub use processes::{Process, eventually};
pub use terminal::Terminal;
pub use token_service::{TokenRequest, TokenService};
pub use user::User;
pub use wire::{Fault, Wire};
pub use world::World;
