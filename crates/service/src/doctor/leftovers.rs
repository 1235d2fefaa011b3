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

/// What was found.
#[derive(Debug, Default)]
struct Found {
    /// Number of leftovers.
    count: usize,
    /// Size of the leftovers.
    bytes: u64,
    /// What is where machines are, and was not made by this program. It stays.
    foreign: Vec<PathBuf>,
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
    let Found {
        count,
        bytes,
        foreign,
    } = match find(directories, fixes) {
        Ok(found) => found,
        Err(error) => return Check::warning(name, format!("cannot be determined: {error}")),
    };
    let leftovers = format!("{count} files and directories of {} MiB", bytes >> 20);
    let message = match count {
        0 => "none".to_owned(),
        _ if fixes => format!("removed {leftovers}"),
        _ => format!("{leftovers} were left behind by a crash"),
    };
    if !foreign.is_empty() {
        let foreign: Vec<String> = foreign.iter().map(|it| it.display().to_string()).collect();
        let message = format!("{message}; not of a machine: {}", foreign.join(", "));
        return Check::warning(name, message).with_fix("move what is not of a machine elsewhere");
    }
    if count == 0 || fixes {
        Check::ok(name, message)
    } else {
        Check::warning(name, message).with_fix("container system doctor --fix")
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
    found.foreign = bundles.foreign().map_err(io::Error::other)?;
    find_runtime_directories(directories, &bundles, removes, &mut found)?;
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

/// Finds the runtime directories of machines that do not exist any more and of which nothing runs.
/// Each is removed right after the check, because a service may be creating a machine.
fn find_runtime_directories(
    directories: &Directories,
    bundles: &Bundles,
    removes: bool,
    found: &mut Found,
) -> io::Result<()> {
    let entries = match fs::read_dir(directories.runtime.join("machines")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let id = entry.file_name().into_string().ok();
        let id: Option<MachineId> = id.and_then(|id| id.parse().ok());
        let path = entry.path();
        let Some(id) = id.filter(|_| is_directory(&path)) else {
            found.foreign.push(path);
            continue;
        };
        if bundles.get(&id).is_err() && !is_served(&path)? {
            found.add(&path);
            if removes {
                fs::remove_dir_all(path)?;
            }
        }
    }
    Ok(())
}

/// Returns whether a path is a directory, and not a link to one.
fn is_directory(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|about| about.is_dir())
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
    if is_directory(path) {
        return tree_size(path).unwrap_or_default();
    }
    fs::symlink_metadata(path).map_or(0, |metadata| metadata.len())
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::symlink, net::UnixListener};

    use container_api::CheckStatus;

    use super::*;

    #[test]
    fn what_is_not_of_a_machine_is_reported_and_stays() {
        let root = tempfile::tempdir().unwrap();
        let directories = Directories {
            data: root.path().join("data"),
            config: root.path().join("config"),
            runtime: root.path().join("runtime"),
        };
        let elsewhere = root.path().join("elsewhere");
        let kept = elsewhere.join("kept");
        fs::create_dir_all(&elsewhere).unwrap();
        fs::write(&kept, "").unwrap();
        let foreign = |directory: &Path| {
            let machines = directory.join("machines");
            fs::create_dir_all(machines.join("No Id!")).unwrap();
            fs::write(machines.join("file"), "").unwrap();
            symlink(&elsewhere, machines.join(".new-link-1")).unwrap();
            symlink("nowhere", machines.join("broken")).unwrap();
            [".new-link-1", "No Id!", "broken", "file"].map(|name| machines.join(name))
        };
        let foreign = [foreign(&directories.data), foreign(&directories.runtime)].concat();
        // Without a bundle, it would be stale if it were a directory.
        let link = directories.runtime.join("machines/link");
        symlink(&elsewhere, &link).unwrap();
        let stale = directories.runtime.join("machines/gone");
        fs::create_dir(&stale).unwrap();
        symlink(&elsewhere, stale.join("link")).unwrap();

        let checked = check(&directories, true);
        assert_eq!(checked.status, CheckStatus::Warning);
        assert!(
            checked.message.starts_with("removed 1 "),
            "{}",
            checked.message
        );
        for path in foreign.iter().chain([&link]) {
            let is_reported = checked.message.contains(&path.display().to_string());
            assert!(is_reported, "{}", checked.message);
            assert!(fs::symlink_metadata(path).is_ok(), "{}", path.display());
        }
        assert!(kept.exists() && !stale.exists());
        let checked = check(&directories, true);
        assert!(checked.message.starts_with("none; not of a machine: "));
    }

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
