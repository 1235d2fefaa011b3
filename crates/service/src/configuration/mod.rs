//! `config.toml`: the user's settings for all machines.

mod file;
mod read;
mod sections;
mod time_zone;

pub(crate) use file::ConfigurationError;
pub(crate) use read::Configuration;
pub(crate) use time_zone::TimeZoneSetting;
