//! Changes that the host makes.

use std::{fs, os::unix::fs::MetadataExt, time::Duration};

use virtiofsd::filesystem::OpenOptions;

use crate::guest::{Guest, errno};

#[test]
fn a_file_that_the_host_renamed_is_found_again() {
    let guest = Guest::new();
    guest.host_writes("a/file", "x");
    guest.host_writes("b/other", "");
    let file = guest.inode("a/file");
    guest.use_many_other_files();
    fs::rename(guest.host("a/file"), guest.host("b/moved")).unwrap();
    assert_eq!(errno(guest.read(file)), Some(libc::ESTALE));
    assert_eq!(errno(guest.find("a/file")), Some(libc::ENOENT));
    assert_eq!(guest.inode("b/moved"), file);
    guest.use_many_other_files();
    assert_eq!(guest.read(file).unwrap(), "x");
}

#[test]
fn a_file_that_the_host_replaced_is_another_file() {
    let guest = Guest::new();
    guest.host_writes("file", "old");
    let old = guest.inode("file");
    guest.use_many_other_files();
    guest.host_writes("new", "new");
    fs::rename(guest.host("new"), guest.host("file")).unwrap();
    assert_eq!(errno(guest.read(old)), Some(libc::ESTALE));
    let new = guest.inode("file");
    assert_ne!(new, old);
    assert_eq!(guest.read(new).unwrap(), "new");
    assert_eq!(errno(guest.attributes(old)), Some(libc::ESTALE));
}

#[test]
fn files_that_the_host_exchanged_are_not_confused() {
    let guest = Guest::new();
    guest.host_writes("a", "a");
    guest.host_writes("b", "b");
    let (a, b) = (guest.inode("a"), guest.inode("b"));
    guest.use_many_other_files();
    // One of the two is open when the other is requested.
    assert_eq!(guest.read(b).unwrap(), "b");
    fs::rename(guest.host("a"), guest.host("c")).unwrap();
    fs::rename(guest.host("b"), guest.host("a")).unwrap();
    fs::rename(guest.host("c"), guest.host("b")).unwrap();
    assert_eq!(errno(guest.read(a)), Some(libc::ESTALE));
    assert_eq!(errno(guest.read(b)), Some(libc::ESTALE));
    assert_eq!((guest.inode("a"), guest.inode("b")), (b, a));
    guest.use_many_other_files();
    assert_eq!(guest.read(a).unwrap(), "a");
    assert_eq!(guest.read(b).unwrap(), "b");
}

#[test]
fn a_reused_inode_number_is_another_file() {
    let guest = Guest::new();
    let path = guest.host("file");
    fs::write(&path, "old").unwrap();
    let old = guest.inode("file");
    let number = fs::metadata(&path).unwrap().ino();
    guest.use_many_other_files();
    fs::remove_file(&path).unwrap();
    // On file systems that reuse a number at once, as ext4 does, the first file has it.
    for attempt in 0..50 {
        fs::write(&path, "new").unwrap();
        if fs::metadata(&path).unwrap().ino() == number || attempt == 49 {
            break;
        }
        fs::rename(&path, guest.host(&format!("skipped-{attempt}"))).unwrap();
    }
    assert_eq!(errno(guest.attributes(old)), Some(libc::ESTALE));
    let new = guest.inode("file");
    assert_ne!(new, old);
    assert_eq!(guest.read(new).unwrap(), "new");
}

#[test]
fn a_removed_file_is_gone() {
    let guest = Guest::new();
    guest.host_writes("directory/file", "");
    let file = guest.inode("directory/file");
    let directory = guest.inode("directory");
    guest.use_many_other_files();
    fs::remove_dir_all(guest.host("directory")).unwrap();
    assert_eq!(errno(guest.attributes(file)), Some(libc::ESTALE));
    assert_eq!(errno(guest.list(directory)), Some(libc::ESTALE));
    assert_eq!(errno(guest.find("directory")), Some(libc::ENOENT));
}

#[test]
fn files_in_a_directory_that_the_host_renamed_are_found() {
    let guest = Guest::new();
    guest.host_writes("a/b/c/file", "x");
    let file = guest.inode("a/b/c/file");
    guest.use_many_other_files();
    assert!(!guest.holds("a") && !guest.holds("a/b/c/file"));
    fs::rename(guest.host("a"), guest.host("z")).unwrap();
    assert_eq!(errno(guest.read(file)), Some(libc::ESTALE));
    // The guest's kernel looks the new path up; its first component is enough.
    guest.inode("z");
    assert_eq!(guest.read(file).unwrap(), "x");
    assert_eq!(guest.inode("z/b/c/file"), file);
}

#[test]
fn directories_that_seem_to_contain_each_other_are_stale() {
    let guest = Guest::new();
    guest.host_writes("a/b/file", "x");
    let (a, b) = (guest.inode("a"), guest.inode("a/b"));
    fs::rename(guest.host("a/b"), guest.host("b")).unwrap();
    fs::rename(guest.host("a"), guest.host("b/a")).unwrap();
    // `b` is still open and recorded in `a`, which is now found in `b`.
    assert_eq!(guest.look_up(b, "a").unwrap().inode, a);
    guest.use_many_other_files();
    assert_eq!(errno(guest.attributes(a)), Some(libc::ESTALE));
    assert_eq!(guest.inode("b/a"), a);
    assert_eq!(guest.inode("b"), b);
}

#[test]
fn a_directory_becomes_a_file() {
    let guest = Guest::new();
    guest.host_writes("a/x", "");
    let x = guest.inode("a/x");
    guest.use_many_other_files();
    fs::remove_dir_all(guest.host("a")).unwrap();
    guest.host_writes("a", "file");
    assert_eq!(errno(guest.attributes(x)), Some(libc::ESTALE));
    let a = guest.inode("a");
    assert_eq!(guest.read(a).unwrap(), "file");
}

#[test]
fn a_file_whose_size_the_guest_does_not_know_is_looked_up_before_it_is_opened() {
    let guest = Guest::new();
    guest.host_writes("file", "one");
    let inode = guest.inode("file");
    guest.host_writes("file", "twelve");
    assert_eq!(errno(guest.open(inode, libc::O_RDONLY)), Some(libc::ESTALE));
    assert_eq!(guest.inode("file"), inode);
    assert_eq!(guest.read(inode).unwrap(), "twelve");
    // The guest needs no lookup for its own changes, and none to replace the contents.
    guest.write(inode, "fourteen").unwrap();
    guest.read(inode).unwrap();
    guest.inode("file");
    guest.host_writes("file", "fifteen or so");
    let handle = guest.open(inode, libc::O_RDWR | libc::O_TRUNC).unwrap();
    guest.close(inode, handle);
}

#[test]
fn a_file_that_the_host_keeps_changing_can_be_opened_and_mapped() {
    let guest = Guest::new();
    guest.host_writes("file", "one");
    let inode = guest.inode("file");
    for contents in ["two or", "three or so", "four"] {
        guest.host_writes("file", contents);
        if errno(guest.open(inode, libc::O_RDONLY)) == Some(libc::ESTALE) {
            assert_eq!(guest.find("file").unwrap().attr_timeout, Duration::ZERO);
            guest.host_writes("file", "between lookup and open");
            let (_, options) = guest.open_by(1, inode, libc::O_RDWR).unwrap();
            // The guest's kernel would refuse to map it.
            assert!(!options.contains(OpenOptions::DIRECT_IO));
        }
    }
}

#[test]
fn no_thread_opens_a_file_that_the_host_has_removed() {
    let guest = Guest::new();
    guest.host_writes("file", "old");
    let inode = guest.inode("file");
    fs::remove_file(guest.host("file")).unwrap();
    let open = |thread| guest.open_by(thread, inode, libc::O_RDWR);
    // All have found the file in the guest's cache at the same time.
    for thread in 1..4 {
        assert_eq!(errno(open(thread)), Some(libc::ESTALE));
    }
    // This one opens a descriptor, for which nothing is looked up.
    let (handle, options) = open(2).unwrap();
    assert!(!options.contains(OpenOptions::DIRECT_IO));
    assert_eq!(guest.read_open(inode, handle).unwrap(), "old");
}

#[test]
fn a_replaced_file_is_looked_up_before_it_is_opened() {
    let guest = Guest::new();
    guest.host_writes("file", "old");
    let inode = guest.inode("file");
    guest.host_writes("new", "new");
    fs::rename(guest.host("new"), guest.host("file")).unwrap();
    assert_eq!(errno(guest.open(inode, libc::O_RDONLY)), Some(libc::ESTALE));
    let replacement = guest.inode("file");
    assert_ne!(replacement, inode);
    assert_eq!(guest.read(replacement).unwrap(), "new");
    // A program that has the old file opens it again, by its descriptor.
    assert_eq!(guest.read(inode).unwrap(), "old");
}

#[test]
fn no_file_is_emptied_or_written_in_place_of_its_replacement() {
    let rotate = |guest: &Guest<_>| {
        fs::rename(guest.host("log"), guest.host("log.1")).unwrap();
    };
    let changes: [&dyn Fn(&Guest<_>); 4] = [
        &|guest| fs::remove_file(guest.host("log")).unwrap(),
        &|guest| {
            guest.host_writes("new", "new");
            fs::rename(guest.host("new"), guest.host("log")).unwrap();
        },
        &rotate,
        &|guest| {
            rotate(guest);
            guest.host_writes("log", "new");
        },
    ];
    for change in changes {
        let guest = Guest::new();
        guest.host_writes("log", "old");
        let inode = guest.inode("log");
        change(&guest);
        for (thread, flags) in [(1, libc::O_TRUNC), (2, libc::O_APPEND), (3, 0)] {
            let opened = guest.open_by(thread, inode, libc::O_RDWR | flags);
            assert_eq!(errno(opened), Some(libc::ESTALE), "{flags}");
        }
        // A descriptor of the old file still leads to it.
        assert_eq!(guest.read(inode).unwrap(), "old");
    }
}

#[test]
fn a_file_with_several_names_is_opened_by_each() {
    let guest = Guest::new();
    guest.host_writes("one", "same");
    fs::hard_link(guest.host("one"), guest.host("two")).unwrap();
    let inode = guest.inode("one");
    assert_eq!(guest.inode("two"), inode);
    fs::remove_file(guest.host("two")).unwrap();
    assert_eq!(errno(guest.open(inode, libc::O_RDWR)), Some(libc::ESTALE));
    assert_eq!(guest.inode("one"), inode);
    assert_eq!(guest.read(inode).unwrap(), "same");
}

#[test]
fn a_file_that_the_guest_has_removed_can_be_opened_by_its_descriptor() {
    let guest = Guest::new();
    guest.host_writes("file", "kept");
    let inode = guest.inode("file");
    guest.unlink(1, "file").unwrap();
    assert_eq!(guest.read(inode).unwrap(), "kept");
}

#[test]
fn unused_files_do_not_take_up_space_after_their_removal() {
    let guest = Guest::new();
    guest.host_writes("removed", "x");
    guest.host_writes("kept", "kept");
    guest.inode("removed");
    let (kept, open) = (guest.inode("kept"), guest.create(1, "open").unwrap());
    guest.file_system.close_unused();
    assert!(guest.holds("kept") && guest.holds("removed"));
    fs::remove_file(guest.host("removed")).unwrap();
    guest.file_system.close_unused();
    assert!(!guest.holds("removed (deleted)") && !guest.holds("kept"));
    assert!(guest.holds("open"));
    assert_eq!(guest.read(kept).unwrap(), "kept");
    guest.close(open.0.inode, open.1);
}
