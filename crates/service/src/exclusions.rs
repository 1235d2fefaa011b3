//! Directories of the home that a machine does not see as they are on the host.

use std::{
    fs,
    path::{Path, PathBuf},
};

use container_machine::{Directories, PrivateHome};

/// Returns the directories of this program in the home, by their paths relative to it. The guest
/// must not see them: they hold credentials, the disks of all machines and the settings of programs
/// that the host starts.
pub(crate) fn hidden(home: &Path, directories: &Directories) -> Vec<PathBuf> {
    let own = [&directories.data, &directories.config, &directories.runtime];
    // By both paths: one leads there through symbolic links, and the other is what they lead to.
    let mut hidden: Vec<PathBuf> = own
        .iter()
        .flat_map(|path| {
            [
                path.strip_prefix(home).ok().map(Path::to_owned),
                in_home(home, path),
            ]
        })
        .flatten()
        .filter(|path| !path.as_os_str().is_empty())
        .collect();
    hidden.sort();
    hidden.dedup();
    hidden
}

/// Returns the directories that the machine has for itself, by their paths relative to the home
/// without symbolic links. One that a link leads out of the home is left out: the machine cannot
/// see the host's.
pub(crate) fn private(home: &Path, private: &PrivateHome) -> Vec<PathBuf> {
    let paths = private.paths();
    paths
        .filter_map(|path| in_home(home, &home.join(path)))
        .filter(|path| !path.as_os_str().is_empty())
        .collect()
}

/// Returns the path relative to the home after following symbolic links; `None` if it is not in the
/// home.
fn in_home(home: &Path, path: &Path) -> Option<PathBuf> {
    let home = fs::canonicalize(home).ok()?;
    let mut missing = PathBuf::new();
    let mut existing = path;
    // What is missing on the host has no links.
    let resolved = loop {
        match fs::canonicalize(existing) {
            Ok(resolved) => break resolved,
            Err(_) => {
                missing = Path::new(existing.file_name()?).join(&missing);
                existing = existing.parent()?;
            }
        }
    };
    let relative = resolved.strip_prefix(home).ok()?;
    // Joining an empty path would add a slash.
    Some(relative.join(missing).components().collect())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn own_directories_in_the_home_are_hidden_by_all_their_paths() {
        let root = tempfile::tempdir().unwrap();
        let home = root.path().join("home");
        fs::create_dir_all(home.join("disk/share/container")).unwrap();
        symlink(home.join("disk/share"), home.join("share")).unwrap();
        let directories = Directories {
            data: home.join("share/container"),
            config: home.join(".config/container"),
            runtime: root.path().join("run/container"),
        };
        let expected = [
            ".config/container",
            "disk/share/container",
            "share/container",
        ];
        assert_eq!(hidden(&home, &directories), expected.map(PathBuf::from));
    }

    #[test]
    fn private_directories_are_found_through_links() {
        let root = tempfile::tempdir().unwrap();
        let home = root.path().join("home");
        fs::create_dir_all(home.join("dotfiles/config")).unwrap();
        symlink("dotfiles/config", home.join(".config")).unwrap();
        symlink("/", home.join(".outside")).unwrap();
        let wanted: PrivateHome = ".config/a,.outside/b,new/c".parse().unwrap();
        let expected = ["dotfiles/config/a", "new/c"].map(PathBuf::from);
        assert_eq!(private(&home, &wanted), expected);
    }
}
