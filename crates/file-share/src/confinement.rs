//! Confines this process with Landlock (Linux, Documentation/userspace-api/landlock.rst) to the
//! directory that it serves.

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, path_beneath_rules,
};

/// The latest version of Landlock that this was tested with. An older kernel restricts less.
const LANDLOCK: ABI = ABI::V7;

/// Files are opened again by their descriptors there. The kernel protects other processes' memory
/// and environment from a confined one.
const PROCESSES: &str = "/proc";

/// Confines the calling thread, and those that it starts afterwards. It may use no TCP, connect to
/// no abstract socket that it did not make, and send no signals to other processes.
///
/// Before Linux 5.19 nothing is restricted: Landlock would not let files be moved to other
/// directories.
pub(crate) fn confine(directory: &str, read_only: bool) -> Result<RulesetStatus, RulesetError> {
    let access = if read_only {
        AccessFs::from_read(LANDLOCK)
    } else {
        AccessFs::from_all(LANDLOCK)
    };
    let list: BitFlags<AccessFs> = AccessFs::ReadDir | AccessFs::ReadFile;
    let confined = Ruleset::default()
        .set_compatibility(CompatLevel::SoftRequirement)
        .handle_access(AccessFs::from_all(ABI::V2))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(LANDLOCK))?
        .handle_access(AccessNet::from_all(LANDLOCK))?
        .scope(Scope::from_all(LANDLOCK))?
        .create()?
        .add_rules(path_beneath_rules([directory], access))?
        .add_rules(path_beneath_rules([PROCESSES], list))?
        .restrict_self()?;
    Ok(confined.ruleset)
}

#[cfg(test)]
mod tests {
    use std::{fs, io, thread};

    use super::*;

    #[test]
    fn only_files_of_the_directory_can_be_opened() {
        let (shared, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (inside, outside) = (shared.path().to_owned(), other.path().to_owned());
        fs::create_dir(inside.join("directory")).unwrap();
        fs::write(outside.join("file"), "").unwrap();
        // Only the thread is confined.
        let confined = thread::spawn(move || {
            let status = confine(inside.to_str().unwrap(), false).unwrap();
            if status == RulesetStatus::NotEnforced {
                return;
            }
            fs::write(inside.join("file"), "contents").unwrap();
            fs::rename(inside.join("file"), inside.join("directory/file")).unwrap();
            fs::hard_link(inside.join("directory/file"), inside.join("link")).unwrap();
            let contents = fs::read_to_string(inside.join("link")).unwrap();
            assert_eq!(contents, "contents");
            let denied = [
                fs::read(outside.join("file")).unwrap_err(),
                fs::write(outside.join("new"), "").unwrap_err(),
                fs::rename(inside.join("link"), outside.join("link")).unwrap_err(),
                fs::read_dir(&outside).unwrap_err(),
            ];
            for error in denied {
                let is_denied = error.kind() == io::ErrorKind::PermissionDenied
                    || error.kind() == io::ErrorKind::CrossesDevices;
                assert!(is_denied, "{error}");
            }
        });
        confined.join().unwrap();
    }

    #[test]
    fn a_read_only_directory_cannot_be_changed() {
        let shared = tempfile::tempdir().unwrap();
        let file = shared.path().join("file");
        fs::write(&file, "contents").unwrap();
        let path = shared.path().to_str().unwrap().to_owned();
        let confined = thread::spawn(move || {
            let status = confine(&path, true).unwrap();
            assert_eq!(fs::read_to_string(&file).unwrap(), "contents");
            (status, fs::write(&file, "other").is_ok())
        });
        let (status, is_written) = confined.join().unwrap();
        assert_eq!(is_written, status == RulesetStatus::NotEnforced);
    }
}
