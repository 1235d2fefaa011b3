//! Snapshots of the help pages, and sample values for the unit tests of the verbs.

mod help_pages;
pub(crate) mod samples;
