//! Entry point for the fuzz target of credential files.

#![allow(clippy::unwrap_used, reason = "a panic is how a fuzz target fails")]

use std::io::Write;

use super::file::AuthFile;
use crate::RegistryHost;

/// Parses bytes as a credential file, and looks credentials up in it.
///
/// # Panics
/// If the parser breaks a promise.
pub fn read_credentials(bytes: &[u8]) {
    let mut file = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
    file.write_all(bytes).unwrap();
    let Ok(Some(file)) = AuthFile::read(file.path()) else {
        return;
    };
    for host in ["docker.io", "registry.example:5000"] {
        let host: RegistryHost = host.parse().unwrap();
        let _ = file.find(&host, "a/b");
        let _ = file.helper_for(&host);
    }
    let _ = file.users();
    let _ = file.helpers().count();
}
