//! Files that crashes have left behind. The service removes most of them when it starts, so there
//! are some only while it does not run.

use std::{
    fs::{self, File},
    io,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

use container_api::Check;
use container_image::ImageStore;
use container_machine::{Bundles, Directories, MachineId};
use nix::fcntl::{Flock, FlockArg};

use crate::disk_usage::tree_size;

/// Leftovers of one kind.
#[derive(Debug, Default)]
struct Found {
    count: usize,
    bytes: u64,
}

impl Found {
    fn add(&mut self, path: &Path) {
        self.count += 1;
        self.bytes += size(path);
    }
}

/// Looks for leftovers, and removes them if `fixes`.
pub(super) fn check(directories: &Directories, fixes: bool) -> Check {
    let name = "leftovers";
    match find(directories, fixes) {
        Ok(Found { count: 0, .. }) => Check::ok(name, "none"),
        Ok(Found { count, bytes }) => {
            let found = format!("{count} files and directories of {} MiB", bytes >> 20);
            if fixes {
                Check::ok(name, format!("removed {found}"))
            } else {
                Check::warning(name, format!("{found} were left behind by a crash"))
                    .with_fix("container system doctor --fix")
            }
        }
        Err(error) => Check::warning(name, format!("cannot be determined: {error}")),
    }
}

fn find(directories: &Directories, removes: bool) -> io::Result<Found> {
    let mut found = Found::default();
    let bundles = Bundles::open(&directories.data).map_err(io::Error::other)?;
    // A service that runs may be creating or removing machines, and has removed what was left.
    if let Some(_alone) = lock_data(&directories.data)? {
        for path in bundles.leftovers().map_err(io::Error::other)? {
            found.add(&path);
        }
        if removes {
            bundles.remove_leftovers().map_err(io::Error::other)?;
        }
        let images = directories.images();
        for path in ImageStore::leftovers(&images).map_err(io::Error::other)? {
            found.add(&path);
        }
        if removes && images.exists() {
            // Opening the store removes them.
            ImageStore::open(&images).map_err(io::Error::other)?;
        }
    }
    for path in stale_runtime_directories(directories, &bundles)? {
        found.add(&path);
        if removes {
            fs::remove_dir_all(path)?;
        }
    }
    Ok(found)
}

/// Locks the data directory. Returns nothing if a service uses it.
fn lock_data(data: &Path) -> io::Result<Option<Flock<File>>> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(data.join("lock"))?;
    Ok(Flock::lock(file, FlockArg::LockExclusiveNonblock).ok())
}

/// Returns the runtime directories of machines that do not exist any more and of which nothing
/// runs.
fn stale_runtime_directories(
    directories: &Directories,
    bundles: &Bundles,
) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directories.runtime.join("machines")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut stale = Vec::new();
    for entry in entries {
        let entry = entry?;
        let id = entry.file_name().into_string().ok();
        let id: Option<MachineId> = id.and_then(|id| id.parse().ok());
        // What is not named as a machine is not ours.
        if let Some(id) = id
            && bundles.get(&id).is_err()
            && !is_served(&entry.path())?
        {
            stale.push(entry.path());
        }
    }
    Ok(stale)
}

/// Returns whether a process listens on a socket in the directory, for example for the machine of
/// another data directory.
fn is_served(directory: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(directory)? {
        if UnixStream::connect(entry?.path()).is_ok() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn size(path: &Path) -> u64 {
    if path.is_dir() {
        return tree_size(path).unwrap_or_default();
    }
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use container_api::CheckStatus;

    use super::*;

    #[test]
    fn leftovers_are_found_and_removed_while_no_service_runs() {
        let root = tempfile::tempdir().unwrap();
        let directories = Directories {
            data: root.path().join("data"),
            config: root.path().join("config"),
            runtime: root.path().join("runtime"),
        };
        let unfinished = directories.data.join("machines/.new-dev-1");
        let download = directories.data.join("images/incoming/part");
        let stale = directories.runtime.join("machines/gone");
        let served = directories.runtime.join("machines/other");
        drop(ImageStore::open(&directories.images()).unwrap());
        for directory in [&unfinished, &stale, &served] {
            fs::create_dir_all(directory).unwrap();
        }
        fs::write(&download, vec![1; 3 << 20]).unwrap();
        let _listener = UnixListener::bind(served.join("runtime.sock")).unwrap();

        let service = lock_data(&directories.data).unwrap();
        let while_running = check(&directories, true);
        assert!(while_running.message.starts_with("removed 1 files"));
        assert!(unfinished.exists() && download.exists() && !stale.exists());
        drop(service);
        let found = check(&directories, false);
        assert_eq!(found.status, CheckStatus::Warning);
        assert!(
            found
                .message
                .starts_with("2 files and directories of 3 MiB")
        );
        assert!(unfinished.exists() && download.exists());
        assert_eq!(check(&directories, true).status, CheckStatus::Ok);
        assert!(!unfinished.exists() && !download.exists() && served.exists());
        assert_eq!(check(&directories, false).message, "none");
    }
}
