//! Directories that the guest does not see as they are on the host.

use std::{fs, os::unix::fs::symlink, path::PathBuf};

use container_file_share::{BoundedFileSystem, Exclusions};
use virtiofsd::{
    filesystem::{Extensions, FileSystem, ROOT_ID},
    passthrough::PassthroughFs,
};

use super::guest::{Guest, c_string, context, errno};

const PRIVATE: &str = ".config/systemd/user";

fn exclusions() -> Exclusions {
    let paths = |paths: &[&str]| paths.iter().map(PathBuf::from).collect();
    Exclusions {
        hidden: paths(&[".local/share/container", ".config/container"]),
        private: paths(&[PRIVATE]),
    }
}

fn home_with_data() -> Guest<BoundedFileSystem<PassthroughFs>> {
    let home = tempfile::tempdir().unwrap();
    fs::create_dir_all(home.path().join(".local/share/container/machines")).unwrap();
    fs::write(home.path().join(".local/share/container/key"), "secret").unwrap();
    Guest::excluding(home, &exclusions())
}

fn mkdir<F>(guest: &Guest<F>, parent: u64, name: &str) -> std::io::Result<u64>
where
    F: FileSystem<Inode = u64, Handle = u64>,
{
    let name = c_string(name);
    let made =
        guest
            .file_system
            .mkdir(context(), parent, &name, 0o755, 0, Extensions::default())?;
    Ok(made.inode)
}

#[test]
fn a_hidden_directory_is_empty_and_cannot_be_changed() {
    let guest = home_with_data();
    let hidden = guest.inode(".local/share/container");
    assert_eq!(guest.list(hidden).unwrap(), [""; 0]);
    assert_eq!(errno(guest.look_up(hidden, "key")), Some(libc::ENOENT));
    assert_eq!(errno(guest.create(hidden, "new")), Some(libc::EACCES));
    assert_eq!(errno(mkdir(&guest, hidden, "new")), Some(libc::EACCES));
    assert_eq!(
        errno(guest.open(hidden, libc::O_RDONLY)),
        Some(libc::EACCES)
    );
    assert_eq!(guest.attributes(hidden).unwrap().mode, 0o40_700);
    let share = guest.inode(".local/share");
    // Its siblings are ordinary.
    let (file, handle) = guest.create(share, "file").unwrap();
    guest.close(file.inode, handle);
    assert_eq!(guest.list(share).unwrap(), ["container", "file"]);
    let removed = guest
        .file_system
        .rmdir(context(), share, &c_string("container"));
    assert_eq!(errno(removed), Some(libc::EBUSY));
}

#[test]
fn moving_directories_does_not_uncover_it() {
    let guest = home_with_data();
    let share = guest.inode(".local/share");
    let local = guest.inode(".local");
    for (old, new) in [
        ((share, "container"), (ROOT_ID, "uncovered")),
        ((local, "share"), (ROOT_ID, "uncovered")),
        ((ROOT_ID, ".local"), (ROOT_ID, "uncovered")),
        ((ROOT_ID, "other"), (ROOT_ID, ".local")),
    ] {
        assert_eq!(
            errno(guest.rename(old, new, 0)),
            Some(libc::EBUSY),
            "{old:?}"
        );
    }
    // The host may move it.
    fs::rename(guest.host(".local"), guest.host("moved")).unwrap();
    let moved = guest.inode("moved/share/container");
    assert_eq!(guest.list(moved).unwrap(), [""; 0]);
    assert_eq!(errno(guest.look_up(moved, "key")), Some(libc::ENOENT));
    fs::rename(guest.host("moved"), guest.host(".local")).unwrap();
    let hidden = guest.inode(".local/share/container");
    assert_eq!(errno(guest.look_up(hidden, "key")), Some(libc::ENOENT));
}

#[test]
fn a_missing_hidden_directory_cannot_be_made_by_the_guest() {
    let guest = home_with_data();
    // `.config` is missing on the host, but leads to a private directory.
    let config = guest.inode(".config");
    assert_eq!(
        errno(guest.look_up(config, "container")),
        Some(libc::ENOENT)
    );
    assert!(mkdir(&guest, config, "container").is_err());
    symlink("/elsewhere", guest.host("link")).unwrap();
    let moved = guest.rename((ROOT_ID, "link"), (config, "container"), 0);
    assert_eq!(errno(moved), Some(libc::EBUSY));
    assert!(!guest.host(".config").exists(), "nothing was created");
    // The host creates it.
    guest.host_writes(".config/container/config.toml", "secret");
    let hidden = guest.inode(".config/container");
    assert_eq!(guest.list(hidden).unwrap(), [""; 0]);
    assert_eq!(
        errno(guest.look_up(hidden, "config.toml")),
        Some(libc::ENOENT)
    );
}

#[test]
fn a_private_directory_exists_without_being_created() {
    let guest = home_with_data();
    let private = guest.inode(PRIVATE);
    assert_eq!(guest.list(private).unwrap(), [""; 0]);
    assert_eq!(errno(mkdir(&guest, private, "unit")), Some(libc::EACCES));
    let listed = guest.list(ROOT_ID).unwrap();
    assert_eq!(listed, [".local"]);
    assert!(!guest.host(".config").exists());
    // What the guest creates above it is created on the host, and its number stays the same.
    let config = guest.inode(".config");
    let (file, handle) = guest.create(config, "settings").unwrap();
    guest.close(file.inode, handle);
    assert!(guest.host(".config/settings").exists());
    assert!(!guest.host(".config/systemd").exists());
    assert_eq!(guest.inode(".config"), config);
    assert_eq!(guest.list(config).unwrap(), ["settings"]);
    assert_eq!(guest.inode(PRIVATE), private);
}

#[test]
fn the_hosts_directory_does_not_appear_in_a_private_one() {
    let guest = home_with_data();
    let (config, private) = (guest.inode(".config"), guest.inode(PRIVATE));
    guest.host_writes(".config/systemd/user/host.service", "");
    assert_eq!(guest.inode(PRIVATE), private);
    assert_eq!(guest.list(private).unwrap(), [""; 0]);
    // The host replaces a directory above it.
    fs::rename(guest.host(".config"), guest.host("old")).unwrap();
    assert_eq!(guest.inode(PRIVATE), private);
    guest.host_writes(".config/new", "");
    assert_eq!(guest.inode(".config"), config);
    assert_eq!(guest.list(config).unwrap(), ["new"]);
    let old = guest.inode("old");
    assert_ne!(old, config);
    assert_eq!(guest.list(old).unwrap(), ["systemd"]);
    assert_eq!(guest.inode(PRIVATE), private);
}

#[test]
fn files_below_ancestors_are_found_again() {
    let guest = home_with_data();
    guest.host_writes(".local/share/notes/one", "first");
    let one = guest.inode(".local/share/notes/one");
    guest.use_many_other_files();
    assert_eq!(guest.read(one).unwrap(), "first");
    let share = guest.inode(".local/share");
    guest.file_system.forget(context(), share, 100);
    assert_eq!(
        guest.read(guest.inode(".local/share/notes/one")).unwrap(),
        "first"
    );
}
