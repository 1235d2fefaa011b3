//! Directories of the host that a machine mounts besides the home.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use container_api::{MountChange, RemovedMounts};
use container_machine::{Directories, HomeMount, InvalidMountPath, Mount, MountPath};
use container_protocol::{MountProblem, local::MountShare};
use container_runtime::MAX_MOUNTS;

use crate::exclusions;

/// Directories of the host that are no files of the user.
const SYSTEM_SOURCES: [&str; 3] = ["/dev", "/proc", "/sys"];

/// Directory in those that has files of users: a tmpfs (shm_open(3)).
const SHARED_MEMORY: &str = "/dev/shm";

/// Directories of the machine in which early boot mounts file systems or removes files.
const VOLATILE_TARGETS: [&str; 8] = [
    "/dev",
    "/proc",
    "/run",
    "/sys",
    "/tmp",
    "/var/lock",
    "/var/run",
    "/var/tmp",
];

/// Directories that the machine needs as they are in its image.
const SYSTEM_TARGETS: [&str; 14] = [
    "/bin",
    "/etc",
    "/home",
    "/lib",
    "/lib32",
    "/lib64",
    "/root",
    "/sbin",
    "/usr",
    "/usr/bin",
    "/usr/lib",
    "/usr/sbin",
    "/var",
    "/var/lib",
];

/// The mounts of a request are refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MountError {
    #[error("cannot mount {count} directories: the limit is {MAX_MOUNTS}")]
    TooMany { count: usize },
    #[error("nothing is mounted at {target} (show the mounts with: container machine inspect)")]
    NotMounted { target: MountPath },
    #[error("cannot mount two directories at {target}: choose another path for one of them")]
    Twice { target: MountPath },
    #[error("cannot mount {path}: {cause}")]
    Unreadable { path: MountPath, cause: io::Error },
    #[error("cannot mount {path}: it is not a directory, and only directories can be mounted")]
    NotADirectory { path: MountPath },
    #[error("cannot mount {path}: it leads to {cause}")]
    Resolved {
        path: MountPath,
        cause: InvalidMountPath,
    },
    #[error("cannot mount {path}: it is in a directory of this program")]
    Own { path: MountPath },
    #[error("cannot mount {path}: it has no files of a user")]
    System { path: MountPath },
    #[error(
        "cannot mount a directory at {target} in the machine: early boot replaces or empties \
         {directory} (choose another path: SOURCE:TARGET)"
    )]
    Volatile {
        target: MountPath,
        directory: &'static str,
    },
    #[error(
        "cannot mount a directory at {target} in the machine: the machine needs its own (choose \
         another path: SOURCE:TARGET)"
    )]
    NeededByMachine { target: MountPath },
    #[error(
        "cannot mount a directory at {target} in the machine: it would hide the home directory \
         {} (choose another path, or share the home with: home-mount)", .home.display()
    )]
    HidesHome { target: MountPath, home: PathBuf },
    #[error(
        "cannot mount a directory at {target}: it is in another shared directory, where it needs \
         an existing directory (create it with: mkdir -p {})", .missing.display()
    )]
    NoMountPoint { target: MountPath, missing: PathBuf },
}

/// Returns the mounts after a change, ordered by target, with the sources of new ones resolved.
/// What can never work is refused. `home` is the user's.
pub(crate) fn changed(
    mounts: Vec<Mount>,
    change: &MountChange,
    home: &Path,
    directories: &Directories,
) -> Result<Vec<Mount>, MountError> {
    let mut mounts = match &change.remove {
        RemovedMounts::All => Vec::new(),
        RemovedMounts::At(targets) => remove(mounts, targets)?,
    };
    for mount in &change.add {
        let source = resolve_source(&mount.source, directories)?;
        check_target(&mount.target, home)?;
        mounts.push(Mount {
            source,
            ..mount.clone()
        });
    }
    if mounts.len() > MAX_MOUNTS {
        let count = mounts.len();
        return Err(MountError::TooMany { count });
    }
    // A directory comes before those in it.
    mounts.sort_by(|one, other| one.target.as_path().cmp(other.target.as_path()));
    for pair in mounts.windows(2) {
        if pair[0].target == pair[1].target {
            let target = pair[0].target.clone();
            return Err(MountError::Twice { target });
        }
    }
    Ok(mounts)
}

fn remove(mut mounts: Vec<Mount>, targets: &[MountPath]) -> Result<Vec<Mount>, MountError> {
    for target in targets {
        let before = mounts.len();
        mounts.retain(|mount| mount.target != *target);
        if mounts.len() == before {
            let target = target.clone();
            return Err(MountError::NotMounted { target });
        }
    }
    Ok(mounts)
}

/// Returns the directory that a source leads to.
fn resolve_source(path: &MountPath, directories: &Directories) -> Result<MountPath, MountError> {
    let unreadable = |cause| MountError::Unreadable {
        path: path.clone(),
        cause,
    };
    let resolved = fs::canonicalize(path.as_path()).map_err(unreadable)?;
    if !resolved.is_dir() {
        return Err(MountError::NotADirectory { path: path.clone() });
    }
    fs::read_dir(&resolved).map_err(unreadable)?;
    let Some(resolved) = resolved.to_str() else {
        return Err(unreadable(io::Error::other("its path is not in UTF-8")));
    };
    let resolved = resolved.parse::<MountPath>();
    let resolved = resolved.map_err(|cause| MountError::Resolved {
        path: path.clone(),
        cause,
    })?;
    let own = [&directories.data, &directories.config, &directories.runtime];
    let is_own = |directory: &Path| {
        let canonical = fs::canonicalize(directory);
        resolved.is_in(canonical.as_deref().unwrap_or(directory))
    };
    if own.into_iter().any(|directory| is_own(directory)) {
        return Err(MountError::Own { path: path.clone() });
    }
    let is_system = SYSTEM_SOURCES.iter().any(|system| resolved.is_in(system));
    if is_system && !resolved.is_in(SHARED_MEMORY) {
        return Err(MountError::System { path: path.clone() });
    }
    Ok(resolved)
}

fn check_target(target: &MountPath, home: &Path) -> Result<(), MountError> {
    // The home itself can be anywhere.
    if target.is_in(home) {
        return Ok(());
    }
    if let Some(directory) = VOLATILE_TARGETS.into_iter().find(|it| target.is_in(it)) {
        let target = target.clone();
        return Err(MountError::Volatile { target, directory });
    }
    if SYSTEM_TARGETS.contains(&target.as_str()) {
        let target = target.clone();
        return Err(MountError::NeededByMachine { target });
    }
    Ok(())
}

/// Refuses mounts that would hide the home, and those in another shared directory that lacks the
/// mount point. The machine does not create any there, because they would be the host's.
pub(crate) fn check_places(
    mounts: &[Mount],
    home: &Path,
    home_mount: HomeMount,
) -> Result<(), MountError> {
    let shared_home = (home_mount != HomeMount::None).then_some((home, home));
    for (index, mount) in mounts.iter().enumerate() {
        let target = mount.target.as_path();
        if home.starts_with(target) {
            return Err(MountError::HidesHome {
                target: mount.target.clone(),
                home: home.to_owned(),
            });
        }
        let before = mounts[..index].iter();
        let shared = before.map(|it| (it.target.as_path(), it.source.as_path()));
        // The last one covers those before.
        let covering = shared_home.into_iter().chain(shared);
        let covering = covering.filter_map(|(at, source)| {
            let below = target.strip_prefix(at).ok()?;
            Some((at, source.join(below)))
        });
        let mount_point = covering.max_by_key(|(at, _)| at.components().count());
        if let Some((_, mount_point)) = mount_point
            && !mount_point.is_dir()
        {
            return Err(MountError::NoMountPoint {
                target: mount.target.clone(),
                missing: mount_point,
            });
        }
    }
    Ok(())
}

/// Returns the mounts as the runtime serves them.
pub(crate) fn shares(mounts: &[Mount], directories: &Directories) -> Vec<MountShare> {
    let share = |mount: &Mount| MountShare {
        hidden: exclusions::hidden(mount.source.as_path(), directories),
        read_only: mount.mode.is_read_only(),
        source: mount.source.as_path().to_owned(),
        target: mount.target.as_str().to_owned(),
    };
    mounts.iter().map(share).collect()
}

/// Returns a sentence for each directory that is not mounted.
pub(crate) fn mount_problems(problems: &[MountProblem]) -> Vec<String> {
    let sentence = |it: &MountProblem| format!("{} is not mounted: {}", it.path, it.problem);
    problems.iter().map(sentence).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use container_machine::RequestedMount;

    use super::*;

    struct Fixture {
        root: tempfile::TempDir,
        directories: Directories,
    }

    impl Fixture {
        fn new() -> Fixture {
            let root = tempfile::tempdir().unwrap();
            let at = |below: &str| root.path().canonicalize().unwrap().join(below);
            for directory in [
                "data/disks",
                "runtime",
                "config",
                "home/project",
                "other/in",
            ] {
                fs::create_dir_all(at(directory)).unwrap();
            }
            fs::write(at("file"), "").unwrap();
            symlink("other", at("link")).unwrap();
            let directories = Directories {
                data: at("data"),
                config: at("config"),
                runtime: at("runtime"),
            };
            Fixture { root, directories }
        }

        fn path(&self, below: &str) -> PathBuf {
            self.root.path().canonicalize().unwrap().join(below)
        }

        fn change(&self, words: &[&str]) -> MountChange {
            let mount = |word: &&str| {
                let requested: RequestedMount = word.parse().unwrap();
                requested.resolve(&self.path("")).unwrap()
            };
            MountChange {
                add: words.iter().map(mount).collect(),
                ..MountChange::default()
            }
        }

        /// Returns the mounts, which may be below the directory for temporary files.
        fn mounts(&self, words: &[&str]) -> Vec<Mount> {
            let mut mounts = self.change(words).add;
            mounts.sort_by(|one, other| one.target.cmp(&other.target));
            mounts
        }

        fn changed(&self, words: &[&str]) -> Result<Vec<Mount>, String> {
            let changed = changed(
                Vec::new(),
                &self.change(words),
                &self.path("home"),
                &self.directories,
            );
            changed.map_err(|error| error.to_string())
        }
    }

    #[test]
    fn sources_are_directories_of_the_user() {
        let fixture = Fixture::new();
        let link = &fixture.changed(&["link:/b", "home:/a:ro"]).unwrap();
        let at = |below: &str| fixture.path(below).display().to_string();
        assert_eq!(link[0].to_string(), format!("{}:/a:ro", at("home")));
        assert_eq!(link[1].to_string(), format!("{}:/b:rw", at("other")));
        for (word, reason) in [
            ("none:/a", "No such file"),
            ("file:/a", "only directories"),
            ("data:/a", "of this program"),
            ("data/disks:/a", "of this program"),
            ("runtime:/a", "of this program"),
            ("/proc:/a", "no files of a user"),
            ("/sys/kernel:/a", "no files of a user"),
            ("/dev:/a", "no files of a user"),
        ] {
            let error = fixture.changed(&[word]).unwrap_err();
            assert!(error.contains(reason), "{word}: {error}");
        }
        let memory = fixture.changed(&["/dev/shm:/a"]).unwrap();
        assert_eq!(memory[0].to_string(), "/dev/shm:/a:rw");
        // What is in it is hidden instead.
        let parent = fixture.changed(&[".:/a"]).unwrap();
        let hidden = &shares(&parent, &fixture.directories)[0].hidden;
        assert_eq!(*hidden, ["config", "data", "runtime"].map(PathBuf::from));
    }

    #[test]
    fn targets_are_not_those_of_the_system() {
        let fixture = Fixture::new();
        for target in ["/a", "/srv", "/usr/local/src", "/var/lib/data", "/mnt"] {
            let word = format!("other:{target}");
            assert!(fixture.changed(&[&word]).is_ok(), "{target}");
        }
        for target in [
            "/run", "/run/a", "/tmp/a", "/etc", "/usr", "/var/lib", "/dev/x",
        ] {
            let word = format!("other:{target}");
            let error = fixture.changed(&[&word]).unwrap_err();
            assert!(error.contains("choose another path"), "{error}");
        }
        let twice = fixture.changed(&["other:/a", "home:/a"]).unwrap_err();
        assert!(twice.contains("two directories at /a"), "{twice}");
        let many: Vec<String> = (0..=MAX_MOUNTS).map(|n| format!("other:/m{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(fixture.changed(&many).unwrap_err().contains("limit"));
        assert!(fixture.changed(&many[1..]).is_ok());
    }

    #[test]
    fn mounts_are_removed_before_others_are_added() {
        let fixture = Fixture::new();
        let mounts = fixture.changed(&["other:/a", "other:/b"]).unwrap();
        let mut change = fixture.change(&["home:/a:ro"]);
        change.remove = RemovedMounts::At(vec!["/a".parse().unwrap()]);
        let replaced = changed(
            mounts.clone(),
            &change,
            Path::new("/home/ann"),
            &fixture.directories,
        )
        .unwrap();
        assert_eq!(replaced.len(), 2);
        assert!(replaced[0].mode.is_read_only());
        change.remove = RemovedMounts::At(vec!["/c".parse().unwrap()]);
        let error = changed(
            mounts.clone(),
            &change,
            Path::new("/home/ann"),
            &fixture.directories,
        )
        .unwrap_err();
        assert!(error.to_string().contains("nothing is mounted at /c"));
        change.remove = RemovedMounts::All;
        let all = changed(
            mounts,
            &change,
            Path::new("/home/ann"),
            &fixture.directories,
        )
        .unwrap();
        assert_eq!(all.len(), 1);
    }

    #[test]
    fn a_mount_in_a_shared_directory_needs_a_mount_point() {
        let fixture = Fixture::new();
        let home = fixture.path("home");
        let at_home = |below: &str| format!("other:{}", home.join(below).display());
        let check = |words: &[&str], mode| {
            let mounts = fixture.mounts(words);
            check_places(&mounts, &home, mode).map_err(|error| error.to_string())
        };
        let (project, new) = (at_home("project"), at_home("new"));
        assert_eq!(check(&[&project], HomeMount::Ro), Ok(()));
        assert!(check(&[&new], HomeMount::Rw).unwrap_err().contains("mkdir"));
        assert_eq!(check(&[&new], HomeMount::None), Ok(()));
        assert_eq!(check(&["other:/a", "home:/a/in"], HomeMount::Rw), Ok(()));
        let missing = check(&["other:/a", "home:/a/none"], HomeMount::Rw);
        assert!(missing.unwrap_err().contains("other/none"));
        for mode in [HomeMount::Rw, HomeMount::None] {
            let over = format!("other:{}", home.display());
            assert!(check(&[&over], mode).unwrap_err().contains("hide"));
            let above = format!("other:{}", fixture.path("").display());
            assert!(check(&[&above], mode).unwrap_err().contains("hide"));
        }
    }
}
