//! The index of the kernel's modules in the machine, for its `modprobe`.
//!
//! The kernel is not the machine's, so the machine has no `/lib/modules` for it, and `modprobe`
//! would fail even for what is built into the kernel. The index is written to the disk and not
//! mounted, so that a package with the kernel's modules can be installed over it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use container_changes::MODULE_INDEX_MARKER;

use super::root::GuestRoot;
use crate::{kernel_log, kernel_modules};

/// Directory of all kernels' modules.
const MODULES: &str = "/lib/modules";

/// Writes the index of the running kernel, and removes those of earlier kernels. A failure is only
/// logged.
pub(super) fn install(root: &GuestRoot) {
    let Some(source) = kernel_modules::index_directory() else {
        return;
    };
    if let Err(error) = replace_indexes(root, &source) {
        kernel_log::error(&format!("cannot write {MODULES}: {error}"));
    }
}

fn replace_indexes(root: &GuestRoot, source: &Path) -> io::Result<()> {
    let Some(release) = kernel_modules::release() else {
        return Ok(());
    };
    for other in root.entries(MODULES).unwrap_or_default() {
        let directory = format!("{MODULES}/{other}");
        if other != release && root.exists(&format!("{directory}/{MODULE_INDEX_MARKER}")) {
            remove_index(root, &directory)?;
        }
    }
    let directory = format!("{MODULES}/{release}");
    let marker = format!("{directory}/{MODULE_INDEX_MARKER}");
    let old = match root.read(&marker) {
        Ok(old) => Some(old),
        // A package's.
        Err(_) if root.exists(&directory) => return Ok(()),
        Err(_) => None,
    };
    let files = index_files(source)?;
    let summary = summary(&files);
    if old.is_some_and(|old| old == summary) || has_other_files(root, &directory, &files) {
        return Ok(());
    }
    root.make_directory(&directory)?;
    // The marker comes first, so that the next boot recognizes an interrupted index as ours, and
    // is complete last.
    root.write(&marker, "", 0o644)?;
    for file in files {
        let contents = fs::read(&file.path)?;
        root.write_bytes(&format!("{directory}/{}", file.name), &contents, 0o644)?;
    }
    root.write(&marker, &summary, 0o644)
}

/// A file of the index in the initramfs.
struct IndexFile {
    name: String,
    path: PathBuf,
    size: u64,
}

fn index_files(source: &Path) -> io::Result<Vec<IndexFile>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(source)? {
        let entry = entry?;
        files.push(IndexFile {
            name: entry.file_name().to_string_lossy().into_owned(),
            path: entry.path(),
            size: entry.metadata()?.len(),
        });
    }
    files.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(files)
}

/// Returns what a complete index's marker contains. Reading all files at each boot would take
/// longer than the rest of the set-up.
fn summary(files: &[IndexFile]) -> String {
    let lines = files
        .iter()
        .map(|file| format!("{} {}\n", file.name, file.size));
    lines.collect()
}

/// Returns whether a package was installed over the index.
fn has_other_files(root: &GuestRoot, directory: &str, ours: &[IndexFile]) -> bool {
    let names = root.entries(directory).unwrap_or_default();
    let mut names = names.iter().filter(|name| *name != MODULE_INDEX_MARKER);
    names.any(|name| !ours.iter().any(|file| &file.name == name))
}

/// Removes an index. One that a package was installed over has subdirectories and is kept.
fn remove_index(root: &GuestRoot, directory: &str) -> io::Result<()> {
    let names = root.entries(directory)?;
    if names
        .iter()
        .any(|name| root.directory(&format!("{directory}/{name}")).is_ok())
    {
        return Ok(());
    }
    // The marker last, so that an interrupted removal is completed by the next boot.
    let (marker, files): (Vec<_>, Vec<_>) = names
        .into_iter()
        .partition(|name| name == MODULE_INDEX_MARKER);
    for name in files.into_iter().chain(marker) {
        root.remove(&format!("{directory}/{name}"))?;
    }
    root.remove_directory(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(directory.path().join(name), text).unwrap();
        }
        directory
    }

    fn names(root: &GuestRoot) -> Vec<String> {
        let release = kernel_modules::release().unwrap();
        let mut names = root.entries(&format!("{MODULES}/{release}")).unwrap();
        names.sort();
        names
    }

    #[test]
    fn index_of_the_running_kernel_replaces_those_of_others() {
        let directory = tempfile::tempdir().unwrap();
        let root = GuestRoot::at(directory.path()).unwrap();
        for (kernel, file) in [("old", MODULE_INDEX_MARKER), ("users", "modules.dep")] {
            root.make_directory(&format!("{MODULES}/{kernel}")).unwrap();
            root.write(&format!("{MODULES}/{kernel}/{file}"), "", 0o644)
                .unwrap();
        }
        let source = source(&[("modules.dep", "a"), ("modules.builtin", "b")]);
        replace_indexes(&root, source.path()).unwrap();
        let expected = [MODULE_INDEX_MARKER, "modules.builtin", "modules.dep"];
        assert_eq!(names(&root), expected);
        assert!(!root.exists("/lib/modules/old") && root.exists("/lib/modules/users"));
    }

    #[test]
    fn index_with_a_package_over_it_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let root = GuestRoot::at(directory.path()).unwrap();
        let ours = source(&[("modules.dep", "a")]);
        replace_indexes(&root, ours.path()).unwrap();
        let release = kernel_modules::release().unwrap();
        let installed = format!("{MODULES}/{release}");
        root.make_directory(&format!("{installed}/kernel")).unwrap();
        root.write(&format!("{installed}/modules.dep"), "package", 0o644)
            .unwrap();
        replace_indexes(&root, ours.path()).unwrap();
        let kept = root.read(&format!("{installed}/modules.dep")).unwrap();
        assert_eq!(kept, "package");
    }
}
