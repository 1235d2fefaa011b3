//! Sockets of the host whose paths a machine may be able to change.

use std::{
    fs::{self, File},
    io,
    os::fd::AsRawFd,
    path::{Component, Path, PathBuf},
};

use container_protocol::local;
use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, openat2},
    io::Errno,
};
use tokio::net::UnixStream;

/// Connects to a socket. Symbolic links in its path are refused, because a machine that shares one
/// of the directories could let one lead to any socket of the user. Those in `/` and `/var`, such
/// as `/var/run`, are the system's.
pub(crate) async fn connect(socket: &Path) -> io::Result<UnixStream> {
    let resolved = resolve_system_links(socket)?;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let file = openat2(
        CWD,
        &resolved,
        flags,
        Mode::empty(),
        ResolveFlags::NO_SYMLINKS,
    )?;
    local::connect(&PathBuf::from(format!(
        "/proc/self/fd/{}",
        file.as_raw_fd()
    )))
    .await
}

/// Opens the directory of a socket that is to be created. Symbolic links are refused as by
/// [`connect`].
pub(crate) fn open_directory(socket: &Path) -> io::Result<File> {
    let resolved = resolve_system_links(socket)?;
    let directory = resolved.parent().unwrap_or(&resolved);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = openat2(
        CWD,
        directory,
        flags,
        Mode::empty(),
        ResolveFlags::NO_SYMLINKS,
    )?;
    Ok(opened.into())
}

/// Returns whether a socket cannot be used because of a symbolic link in its path. What does not
/// exist yet is no link.
pub fn has_refused_links(socket: &Path) -> bool {
    let open = |path: &Path| {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)
    };
    // Fails if the directories of the system do not exist.
    resolve_system_links(socket).is_ok_and(|path| open(&path).err() == Some(Errno::LOOP))
}

fn resolve_system_links(path: &Path) -> io::Result<PathBuf> {
    let names: Vec<Component<'_>> = path.components().collect();
    let depth = if path.starts_with("/var") { 3 } else { 2 };
    // The socket itself is never a link.
    let (system, rest) = names.split_at(depth.min(names.len().saturating_sub(1)));
    let system = fs::canonicalize(system.iter().collect::<PathBuf>())?;
    Ok(system.join(rest.iter().collect::<PathBuf>()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::symlink, net::UnixListener};

    use super::*;

    #[tokio::test]
    async fn links_are_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let real = directory.path().join("real");
        fs::create_dir(&real).unwrap();
        let socket = real.join("socket");
        let _listener = UnixListener::bind(&socket).unwrap();
        connect(&socket).await.unwrap();
        assert!(!has_refused_links(&socket));
        assert!(!has_refused_links(&real.join("later/socket")));
        assert!(!has_refused_links(Path::new("/var/run/docker.sock")));

        let link = directory.path().join("link");
        symlink(&socket, &link).unwrap();
        let linked_directory = directory.path().join("linked");
        symlink(&real, &linked_directory).unwrap();
        for path in [link, linked_directory.join("socket")] {
            let error = connect(&path).await.unwrap_err();
            assert_eq!(error.raw_os_error(), Some(nix::libc::ELOOP), "{path:?}");
            assert!(has_refused_links(&path), "{path:?}");
        }
    }
}
