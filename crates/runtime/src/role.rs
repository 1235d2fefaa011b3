//! The roles of the program in this crate: first arguments, and the program itself.

use std::{env, fs, os::unix::fs::MetadataExt, path::PathBuf};

/// Argument for the role of a machine's runtime ([`runtime_main`](crate::runtime_main)).
pub const RUNTIME_ROLE: &str = "__runtime";

/// Argument for the role that makes a template ([`template_main`](crate::template_main)).
pub const TEMPLATE_ROLE: &str = "__template";

/// Argument for the role of a file share ([`file_share_main`](crate::file_share_main)).
pub const FILE_SHARE_ROLE: &str = "__file-share";

/// Returns a path of the program that this process runs, to start it in a role. After an update,
/// there is another program at the path that this one was started from, or none.
pub(crate) fn own_program() -> PathBuf {
    let running = PathBuf::from("/proc/self/exe");
    let identity = |path: &PathBuf| fs::metadata(path).map(|about| (about.dev(), about.ino()));
    match (env::current_exe(), identity(&running)) {
        (Ok(path), Ok(own)) if identity(&path).is_ok_and(|found| found == own) => path,
        _ => running,
    }
}
