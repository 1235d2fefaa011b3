//! The program and its service in worlds of their own, without virtual machines: what people
//! and clients see.

mod machines;
mod refusals;
mod service;
mod world;
