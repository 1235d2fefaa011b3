//! `config.toml`: the user's settings for all machines.

mod file;
mod read;
mod sections;

pub(crate) use file::ConfigurationError;
pub(crate) use read::Configuration;
