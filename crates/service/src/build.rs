//! Identification of this build of the program.

use std::{env, fs, os::unix::fs::MetadataExt, sync::OnceLock};

/// Returns a text that differs between two builds of the program: version, path, size and
/// modification time of its file. A client talks only to a service of its own build.
///
/// The first call reads the file, and later calls return the same text even if the file is
/// replaced.
pub fn build_id() -> String {
    static BUILD: OnceLock<String> = OnceLock::new();
    BUILD
        .get_or_init(|| {
            let version = env!("CARGO_PKG_VERSION");
            let program = env::current_exe().unwrap_or_default();
            match fs::metadata(&program) {
                Ok(metadata) => format!(
                    "{version} {} {} {}.{}",
                    program.display(),
                    metadata.len(),
                    metadata.mtime(),
                    metadata.mtime_nsec()
                ),
                Err(_) => version.to_owned(),
            }
        })
        .clone()
}
