//! The program and its service in worlds of their own, without virtual machines: what people
//! and clients see.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod machines;
mod refusals;
mod service;
mod world;
