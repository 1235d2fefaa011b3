//! Tests of the program with a real service and without virtual machines. Every test has
//! directories and a service of its own.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod machines;
mod refusals;
mod service;
mod world;
