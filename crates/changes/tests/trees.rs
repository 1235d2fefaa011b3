//! Packs trees of this host after changing them.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, File},
    io::Read,
    os::{
        fd::OwnedFd,
        unix::{
            ffi::OsStrExt,
            fs::{FileExt, MetadataExt, symlink},
        },
    },
    path::{Path, PathBuf},
};

use container_changes::{ArchiveReader, BaseEntry, UnixTime, pack, write_listing};
use rustix::fs::{CWD, FileType, Mode, OFlags, XattrFlags, lsetxattr, mknodat};

/// A directory, and the listing of its original contents.
struct Machine {
    root: tempfile::TempDir,
    listing: Vec<u8>,
}

impl Machine {
    /// Creates a directory with `fill`, and lists it.
    fn new(fill: impl FnOnce(&Path)) -> Machine {
        let root = tempfile::tempdir_in("/var/tmp").unwrap();
        fill(root.path());
        let entry = |path: &Path, name: &OsStr| {
            let about = path.symlink_metadata().unwrap();
            BaseEntry {
                name: name.as_bytes().to_vec(),
                inode: about.ino(),
                changed: UnixTime {
                    seconds: about.ctime(),
                    nanoseconds: about.ctime_nsec() as u32,
                },
                is_directory: about.is_dir(),
            }
        };
        let top = entry(root.path(), OsStr::new(""));
        let mut entries = BTreeMap::new();
        let mut directories = vec![(top.inode, root.path().to_owned())];
        while let Some((inode, path)) = directories.pop() {
            let mut found_entries = Vec::new();
            for found in fs::read_dir(path).unwrap().map(Result::unwrap) {
                let entry = entry(&found.path(), &found.file_name());
                if entry.is_directory {
                    directories.push((entry.inode, found.path()));
                }
                found_entries.push(entry);
            }
            entries.insert(inode, found_entries);
        }
        let mut listing = Vec::new();
        let mut entries_of = |inode| Ok(entries.remove(&inode).unwrap());
        write_listing(top, &mut entries_of, &mut listing).unwrap();
        Machine { root, listing }
    }

    fn path(&self, below: &str) -> PathBuf {
        self.root.path().join(below)
    }

    /// Packs the changes; returns the archive and the notes.
    fn archive(&self) -> (Vec<u8>, Vec<String>) {
        let root = File::open(self.root.path()).unwrap();
        let mut stream = Vec::new();
        pack(
            std::os::fd::AsFd::as_fd(&root),
            self.listing.as_slice(),
            &mut stream,
        )
        .unwrap();
        let (mut archive, mut notes) = (Vec::new(), Vec::new());
        ArchiveReader::new(stream.as_slice(), |note| notes.push(note))
            .read_to_end(&mut archive)
            .unwrap();
        assert!(archive.len().is_multiple_of(512));
        (archive, notes)
    }

    /// Paths in the archive, in order, with the targets of links.
    fn changes(&self) -> Vec<String> {
        let (archive, _) = self.archive();
        let mut archive = tar::Archive::new(archive.as_slice());
        let members = archive.entries().unwrap().map(|member| {
            let member = member.unwrap();
            let path = String::from_utf8_lossy(&member.path_bytes()).into_owned();
            match member.link_name_bytes() {
                Some(target) => format!("{path} -> {}", String::from_utf8_lossy(&target)),
                None => path,
            }
        });
        members.collect()
    }
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

#[test]
fn unchanged_entries_are_not_packed() {
    let machine = Machine::new(|root| {
        write(&root.join("a/b/file"), "text");
        symlink("file", root.join("a/b/link")).unwrap();
    });
    fs::read(machine.path("a/b/file")).unwrap();
    assert_eq!(machine.changes(), [""; 0]);
    assert_eq!(machine.archive().0, [0; 1024]);
}

#[test]
fn changed_entries_are_packed_with_their_ancestors() {
    let machine = Machine::new(|root| {
        write(&root.join("a/b/one"), "text");
        write(&root.join("a/b/two"), "text");
        write(&root.join("a/c"), "text");
    });
    File::options()
        .write(true)
        .open(machine.path("a/b/one"))
        .unwrap()
        .write_at(b"T", 0)
        .unwrap();
    assert_eq!(machine.changes(), ["./", "a/", "a/b/", "a/b/one"]);
}

#[test]
fn removed_trees_get_one_whiteout() {
    let machine = Machine::new(|root| {
        write(&root.join("a/gone/deep/file"), "text");
        write(&root.join("a/gone/file"), "text");
        write(&root.join("a/stays/file"), "text");
        write(&root.join("file"), "text");
    });
    fs::remove_dir_all(machine.path("a/gone")).unwrap();
    fs::remove_file(machine.path("file")).unwrap();
    assert_eq!(machine.changes(), ["./", ".wh.file", "a/", "a/.wh.gone"]);
}

#[test]
fn entries_of_another_type_replace_the_old_ones() {
    let machine = Machine::new(|root| {
        write(&root.join("directory/sub/file"), "text");
        write(&root.join("file"), "text");
        write(&root.join("recreated/old"), "text");
        write(&root.join("z"), "text");
    });
    fs::remove_dir_all(machine.path("directory")).unwrap();
    fs::remove_dir_all(machine.path("recreated")).unwrap();
    fs::remove_file(machine.path("file")).unwrap();
    write(&machine.path("directory"), "text");
    write(&machine.path("file/sub/new"), "text");
    write(&machine.path("recreated/new"), "text");
    assert_eq!(
        machine.changes(),
        [
            "./",
            "directory",
            "file/",
            "file/sub/",
            "file/sub/new",
            "recreated/",
            "recreated/new",
            "recreated/.wh.old"
        ]
    );
}

#[test]
fn a_directory_moved_to_anothers_place_is_noticed_though_all_times_are_equal() {
    let machine = Machine::new(|root| {
        for version in ["1", "2"] {
            write(&root.join(version).join("file"), version);
        }
    });
    // Give both the same change time, as in an image whose files all have one timestamp.
    let mut listing = machine.listing.clone();
    let file = fs::metadata(machine.path("1/file")).unwrap();
    let other = fs::metadata(machine.path("2/file")).unwrap();
    let bytes = |about: &fs::Metadata| {
        [
            &about.ctime().to_le_bytes()[..],
            &(about.ctime_nsec() as u32).to_le_bytes(),
        ]
        .concat()
    };
    let at = listing
        .windows(12)
        .position(|window| window == bytes(&file))
        .unwrap();
    listing[at..at + 12].copy_from_slice(&bytes(&other));
    fs::rename(machine.path("1"), machine.path("old")).unwrap();
    fs::rename(machine.path("2"), machine.path("1")).unwrap();
    let machine = Machine { listing, ..machine };
    let changes = machine.changes();
    assert!(changes.contains(&"1/file".to_owned()), "{changes:?}");
    assert!(changes.contains(&"old/file".to_owned()), "{changes:?}");
    assert!(changes.contains(&".wh.2".to_owned()), "{changes:?}");
}

#[test]
fn hard_links_stay_hard_links() {
    let machine = Machine::new(|root| {
        write(&root.join("b"), "text");
        fs::hard_link(root.join("b"), root.join("c")).unwrap();
        write(&root.join("other"), "text");
    });
    fs::hard_link(machine.path("b"), machine.path("a")).unwrap();
    assert_eq!(machine.changes(), ["./", "a", "b -> a", "c -> a"]);
    fs::remove_file(machine.path("a")).unwrap();
    fs::remove_file(machine.path("b")).unwrap();
    assert_eq!(machine.changes(), ["./", ".wh.b", "c"]);
}

#[test]
fn long_names_types_times_and_attributes_are_kept() {
    let machine = Machine::new(|_| ());
    let long = "n".repeat(255);
    let odd = OsStr::from_bytes(b"odd-\xff");
    write(&machine.path(&format!("{long}/{long}")), "deep");
    fs::write(machine.root.path().join(odd), "odd").unwrap();
    symlink("t".repeat(300), machine.path("link")).unwrap();
    mknodat(CWD, machine.path("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(machine.path("socket")).unwrap();
    let file = machine.path("file");
    write(&file, "x");
    lsetxattr(&file, "user.a", b"1\0=2", XattrFlags::empty()).unwrap();
    let before_1970 = std::time::SystemTime::UNIX_EPOCH - std::time::Duration::from_millis(1500);
    File::options()
        .write(true)
        .open(&file)
        .unwrap()
        .set_modified(before_1970)
        .unwrap();
    let (archive, notes) = machine.archive();
    assert!(notes.is_empty());
    let mut members = BTreeMap::new();
    let mut archive = tar::Archive::new(archive.as_slice());
    for member in archive.entries().unwrap() {
        let mut member = member.unwrap();
        let extensions = member.pax_extensions().unwrap().map(|records| {
            let records = records.map(|record| {
                let record = record.unwrap();
                (
                    record.key().unwrap().to_owned(),
                    record.value_bytes().to_vec(),
                )
            });
            records.collect::<BTreeMap<String, Vec<u8>>>()
        });
        let extensions = extensions.unwrap_or_default();
        let mut text = String::new();
        member.read_to_string(&mut text).unwrap();
        let path = member.path_bytes().into_owned();
        let target = member.link_name_bytes().map(|target| target.into_owned());
        let kind = member.header().entry_type();
        members.insert(path, (kind, text, target, extensions));
    }
    let deep = format!("{long}/{long}");
    assert_eq!(members[deep.as_bytes()].1, "deep");
    assert_eq!(members[odd.as_bytes()].1, "odd");
    let target = members[&b"link"[..]].2.as_ref().unwrap();
    assert_eq!(target.len(), 300);
    assert!(members[&b"pipe"[..]].0.is_fifo());
    assert!(!members.contains_key(&b"socket"[..]));
    let extensions = &members[&b"file"[..]].3;
    assert_eq!(extensions["mtime"], b"-1.500000000");
    assert_eq!(extensions["SCHILY.xattr.user.a"], b"1\0=2");
}

#[test]
fn holes_are_not_transferred() {
    let machine = Machine::new(|_| ());
    let file = File::create(machine.path("sparse")).unwrap();
    file.set_len(64 << 20).unwrap();
    file.write_at(b"in the middle", 32 << 20).unwrap();
    let root = File::open(machine.root.path()).unwrap();
    let mut stream = Vec::new();
    pack(
        std::os::fd::AsFd::as_fd(&root),
        machine.listing.as_slice(),
        &mut stream,
    )
    .unwrap();
    assert!(stream.len() < 1 << 20, "{}", stream.len());
    let (archive, _) = machine.archive();
    let mut archive = tar::Archive::new(archive.as_slice());
    let mut sparse = archive.entries().unwrap().nth(1).unwrap().unwrap();
    let mut contents = Vec::new();
    sparse.read_to_end(&mut contents).unwrap();
    assert!(contents == fs::read(machine.path("sparse")).unwrap());
}

#[test]
fn files_of_one_machine_are_left_out() {
    let machine = Machine::new(|root| {
        write(&root.join("etc/hosts"), "the image's");
        write(&root.join("var/log/journal/0/old"), "");
    });
    for path in [
        "etc/hostname",
        "etc/hosts",
        "etc/resolv.conf",
        "etc/mine",
        "var/host-services/x",
        "var/lib/systemd/random-seed",
        "var/lib/dbus/machine-id",
        "var/log/journal/1/system.journal",
        "lost+found/x",
    ] {
        write(&machine.path(path), "mine");
    }
    fs::remove_dir_all(machine.path("var/log/journal/0")).unwrap();
    write(&machine.path("etc/machine-id"), "0123\n");
    let swap = File::create(machine.path("swap")).unwrap();
    swap.set_len(1 << 20).unwrap();
    swap.write_at(b"SWAPSPACE2", 4086).unwrap();
    assert_eq!(
        machine.changes(),
        [
            "./",
            "etc/",
            "etc/machine-id",
            "etc/mine",
            "var/",
            "var/lib/",
            "var/lib/dbus/",
            "var/lib/systemd/",
            "var/log/",
            "var/log/journal/",
        ]
    );
    let (archive, _) = machine.archive();
    let mut archive = tar::Archive::new(archive.as_slice());
    let mut members = archive.entries().unwrap().map(Result::unwrap);
    let id = members.find(|member| &*member.path_bytes() == b"etc/machine-id");
    assert_eq!(id.unwrap().size(), 0);
}

#[test]
fn names_that_look_like_whiteouts_are_reported() {
    let machine = Machine::new(|_| ());
    write(&machine.path(".wh.file"), "");
    write(&machine.path(".wh.tree/file"), "");
    let (_, notes) = machine.archive();
    assert!(notes[0].contains("/.wh.file is left out"), "{notes:?}");
    assert!(notes[1].contains("/.wh.tree is left out"), "{notes:?}");
    assert_eq!(machine.changes(), ["./"]);
}

#[test]
fn a_truncated_listing_fails_on_both_sides() {
    let machine = Machine::new(|root| write(&root.join("a/b"), ""));
    let root = File::open(machine.root.path()).unwrap();
    for length in 0..machine.listing.len() {
        let mut stream = Vec::new();
        let packed = pack(
            std::os::fd::AsFd::as_fd(&root),
            &machine.listing[..length],
            &mut stream,
        );
        assert!(packed.is_err(), "{length}");
        let mut archive = Vec::new();
        let read = ArchiveReader::new(stream.as_slice(), |_| ()).read_to_end(&mut archive);
        let error = read.unwrap_err().to_string();
        assert!(error.contains("base image"), "{error}");
    }
}

#[test]
fn paths_may_be_longer_than_path_max() {
    let machine = Machine::new(|_| ());
    let (name, depth) = ("d".repeat(200), 50);
    let mut directory = OwnedFd::from(File::open(machine.root.path()).unwrap());
    for _ in 0..depth {
        rustix::fs::mkdirat(&directory, &name, Mode::RWXU).unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        directory = rustix::fs::openat(&directory, &name, flags, Mode::empty()).unwrap();
    }
    let flags = OFlags::CREATE | OFlags::WRONLY;
    rustix::fs::openat(&directory, "file", flags, Mode::RUSR).unwrap();
    let changes = machine.changes();
    assert_eq!(changes.len(), depth + 2);
    let longest = changes.iter().map(String::len).max();
    assert_eq!(longest, Some(depth * (name.len() + 1) + "file".len()));
}

#[test]
fn a_deep_tree_needs_few_descriptors() {
    let machine = Machine::new(|_| ());
    let deep = ["d"; 1500].join("/");
    fs::create_dir_all(machine.path(&deep)).unwrap();
    assert_eq!(machine.changes().len(), 1501);
}
