//! The user's own configuration of ssh, `~/.ssh/config`, which includes ours.

use std::{
    fs::{self, DirBuilder, Permissions},
    io::{self, ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use super::entry::quoted_literally;
use crate::failure::Failure;

/// Line before the `Include`.
const COMMENT: &str = "# Machines (remove with: container machine ssh-config --uninstall)";

/// The file, which may not exist yet. It is replaced atomically, and keeps its mode.
pub(super) struct UserFile {
    /// Path after following symbolic links.
    path: PathBuf,
}

impl UserFile {
    /// Finds the file below a home directory. Refuses one that ssh would not use, and one that
    /// cannot be replaced.
    pub(super) fn find(home: &Path) -> Result<UserFile, Failure> {
        let path = home.join(".ssh/config");
        let refused = |reason: &str| {
            Err(Failure::new(format!(
                "cannot change {}: {reason}",
                path.display()
            )))
        };
        let path = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(UserFile { path }),
            Err(error) => return refused(&error.to_string()),
            Ok(file) if file.is_symlink() => match fs::canonicalize(&path) {
                Ok(target) => target,
                Err(error) => return refused(&format!("its link leads nowhere: {error}")),
            },
            Ok(_) => path.clone(),
        };
        let file = fs::metadata(&path).map_err(Failure::cannot("read the file"))?;
        if !file.is_file() {
            return refused("it is not a file");
        }
        if file.uid() != rustix::process::getuid().as_raw() {
            return refused("it belongs to another user");
        }
        Ok(UserFile { path })
    }

    /// Returns the path after following symbolic links.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Includes a file, unless it is included. Returns whether it was not.
    pub(super) fn add(&self, included: &Path) -> Result<bool, Failure> {
        let (text, mode) = self.read()?;
        match with_include(&text, &include(included)?) {
            Some(text) => self.write(&text, mode).map(|()| true),
            None => Ok(false),
        }
    }

    /// Removes what [`add`](Self::add) has added. Returns whether it was there.
    pub(super) fn remove(&self, included: &Path) -> Result<bool, Failure> {
        let (text, mode) = self.read()?;
        match without_include(&text, &include(included)?) {
            // The user's own file can be empty too, but nobody misses it.
            Some(text) if text.is_empty() => {
                let removed = fs::remove_file(&self.path);
                removed.map_err(|error| self.failed("remove", error))?;
                Ok(true)
            }
            Some(text) => self.write(&text, mode).map(|()| true),
            None => Ok(false),
        }
    }

    /// Returns content and mode.
    fn read(&self) -> Result<(Vec<u8>, u32), Failure> {
        let read = || -> io::Result<(Vec<u8>, u32)> {
            let mode = fs::metadata(&self.path)?.mode() & 0o7777;
            Ok((fs::read(&self.path)?, mode))
        };
        match read() {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok((Vec::new(), 0o600)),
            other => other.map_err(|error| self.failed("read", error)),
        }
    }

    fn write(&self, text: &[u8], mode: u32) -> Result<(), Failure> {
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        let write = || -> io::Result<()> {
            let mut builder = DirBuilder::new();
            builder.recursive(true).mode(0o700).create(directory)?;
            let mut file = tempfile::NamedTempFile::new_in(directory)?;
            file.write_all(text)?;
            file.as_file()
                .set_permissions(Permissions::from_mode(mode))?;
            file.as_file().sync_all()?;
            file.persist(&self.path)?;
            Ok(())
        };
        write().map_err(|error| self.failed("write", error))
    }

    fn failed(&self, action: &str, error: io::Error) -> Failure {
        Failure::cannot(format!("{action} {}", self.path.display()))(error)
    }
}

/// Returns the line that includes a file. A machine that shares the home does not see the file;
/// ssh ignores a missing one.
fn include(included: &Path) -> Result<String, Failure> {
    Ok(format!("Include {}", quoted_literally(included)?))
}

/// Returns the text with the line before everything else, so that it is in no `Host` block;
/// `None` if it has the line.
fn with_include(text: &[u8], include: &str) -> Option<Vec<u8>> {
    let is_there = text
        .split(|byte| *byte == b'\n')
        .any(|line| line == include.as_bytes());
    let added = format!("{COMMENT}\n{include}\n\n");
    (!is_there).then(|| [added.as_bytes(), text].concat())
}

/// Returns the text without the line and what was added with it; `None` if it does not have the
/// line.
fn without_include(text: &[u8], include: &str) -> Option<Vec<u8>> {
    let block = format!("{COMMENT}\n{include}\n\n");
    if let Some(rest) = text.strip_prefix(block.as_bytes()) {
        return Some(rest.to_vec());
    }
    let is_ours = |line: &[u8]| {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        line == include.as_bytes() || line == COMMENT.as_bytes()
    };
    let lines = text.split_inclusive(|byte| *byte == b'\n');
    let rest: Vec<&[u8]> = lines.filter(|line| !is_ours(line)).collect();
    let rest = rest.concat();
    (rest.len() != text.len()).then_some(rest)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const OURS: &str = "/home/ada/.local/share/container/ssh/config";

    fn write(home: &Path, text: &str, mode: u32) -> PathBuf {
        fs::create_dir_all(home.join(".ssh")).unwrap();
        let path = home.join(".ssh/config");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    }

    fn change(home: &Path) -> (bool, bool) {
        let file = UserFile::find(home).unwrap();
        let ours = Path::new(OURS);
        (file.add(ours).unwrap(), file.add(ours).unwrap())
    }

    #[test]
    fn an_include_is_added_once_and_removed_without_a_trace() {
        let home = tempfile::tempdir().unwrap();
        let old = "Host *\n  User ann\n# no newline at the end";
        let path = write(home.path(), old, 0o640);
        assert_eq!(change(home.path()), (true, false));
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.ends_with(old), "{text}");
        assert_eq!(text.lines().nth(1).unwrap(), format!("Include \"{OURS}\""));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
        let file = UserFile::find(home.path()).unwrap();
        assert!(file.remove(Path::new(OURS)).unwrap());
        assert!(!file.remove(Path::new(OURS)).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), old);
    }

    #[test]
    fn an_include_that_was_moved_is_removed_too() {
        let include = format!("Include \"{OURS}\"");
        let text = format!("User ann\n{COMMENT}\n{include}\nPort 1\n");
        let rest = without_include(text.as_bytes(), &include).unwrap();
        assert_eq!(rest, b"User ann\nPort 1\n");
    }

    #[test]
    fn a_missing_file_is_created_for_its_owner_only_and_removed() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(change(home.path()), (true, false));
        let mode = |path: &str| fs::metadata(home.path().join(path)).unwrap().mode() & 0o777;
        assert_eq!((mode(".ssh"), mode(".ssh/config")), (0o700, 0o600));
        let file = UserFile::find(home.path()).unwrap();
        assert!(file.remove(Path::new(OURS)).unwrap());
        assert!(!home.path().join(".ssh/config").exists());
    }

    #[test]
    fn links_are_followed_and_kept_unless_they_lead_nowhere() {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir_all(home.path().join(".ssh")).unwrap();
        let link = home.path().join(".ssh/config");
        symlink("../dotfiles", &link).unwrap();
        let refused = |home: &Path| UserFile::find(home).err().unwrap().to_string();
        assert!(refused(home.path()).contains("its link leads nowhere"));
        fs::write(home.path().join("dotfiles"), "User ann\n").unwrap();
        assert_eq!(change(home.path()), (true, false));
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        let text = fs::read_to_string(home.path().join("dotfiles")).unwrap();
        assert!(text.ends_with("User ann\n"), "{text}");
        fs::remove_file(&link).unwrap();
        symlink("/proc/version", &link).unwrap();
        let nobody = rustix::process::getuid().as_raw() != 0;
        assert!(!nobody || refused(home.path()).contains("another user"));
        fs::remove_file(&link).unwrap();
        fs::create_dir(&link).unwrap();
        assert!(refused(home.path()).contains("not a file"));
    }
}
