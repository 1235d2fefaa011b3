use std::{fs, os::unix::fs::MetadataExt};

use crate::guest::{Guest, errno};

#[test]
fn a_file_that_the_host_renamed_is_found_where_it_is() {
    let guest = Guest::new();
    guest.host_writes("a/file", "x");
    guest.host_writes("b/other", "");
    let file = guest.number("a/file");
    guest.use_much_else();
    fs::rename(guest.host("a/file"), guest.host("b/moved")).unwrap();
    assert_eq!(errno(guest.read(file)), Some(libc::ESTALE));
    assert_eq!(errno(guest.find("a/file")), Some(libc::ENOENT));
    assert_eq!(guest.number("b/moved"), file);
    guest.use_much_else();
    assert_eq!(guest.read(file).unwrap(), "x");
}

#[test]
fn what_the_host_put_in_a_files_place_is_another_file() {
    let guest = Guest::new();
    guest.host_writes("file", "old");
    let old = guest.number("file");
    guest.use_much_else();
    guest.host_writes("new", "new");
    fs::rename(guest.host("new"), guest.host("file")).unwrap();
    assert_eq!(errno(guest.read(old)), Some(libc::ESTALE));
    let new = guest.number("file");
    assert_ne!(new, old);
    assert_eq!(guest.read(new).unwrap(), "new");
    assert_eq!(errno(guest.about(old)), Some(libc::ESTALE));
}

#[test]
fn files_that_changed_places_are_not_taken_for_each_other() {
    let guest = Guest::new();
    guest.host_writes("a", "a");
    guest.host_writes("b", "b");
    let (a, b) = (guest.number("a"), guest.number("b"));
    guest.use_much_else();
    // One of the two is held open when the other is asked for.
    assert_eq!(guest.read(b).unwrap(), "b");
    fs::rename(guest.host("a"), guest.host("c")).unwrap();
    fs::rename(guest.host("b"), guest.host("a")).unwrap();
    fs::rename(guest.host("c"), guest.host("b")).unwrap();
    assert_eq!(errno(guest.read(a)), Some(libc::ESTALE));
    assert_eq!(guest.read(b).unwrap(), "b");
    assert_eq!((guest.number("a"), guest.number("b")), (b, a));
    guest.use_much_else();
    assert_eq!(guest.read(a).unwrap(), "a");
    assert_eq!(guest.read(b).unwrap(), "b");
}

#[test]
fn an_inode_number_given_anew_is_another_file() {
    let guest = Guest::new();
    let path = guest.host("file");
    fs::write(&path, "old").unwrap();
    let old = guest.number("file");
    let number = fs::metadata(&path).unwrap().ino();
    guest.use_much_else();
    fs::remove_file(&path).unwrap();
    // Where the file system gives the number anew at once, as ext4 does, the first has it.
    for attempt in 0..50 {
        fs::write(&path, "new").unwrap();
        if fs::metadata(&path).unwrap().ino() == number || attempt == 49 {
            break;
        }
        fs::rename(&path, guest.host(&format!("passed-over-{attempt}"))).unwrap();
    }
    assert_eq!(errno(guest.about(old)), Some(libc::ESTALE));
    let new = guest.number("file");
    assert_ne!(new, old);
    assert_eq!(guest.read(new).unwrap(), "new");
}

#[test]
fn a_removed_file_is_gone() {
    let guest = Guest::new();
    guest.host_writes("directory/file", "");
    let file = guest.number("directory/file");
    let directory = guest.number("directory");
    guest.use_much_else();
    fs::remove_dir_all(guest.host("directory")).unwrap();
    assert_eq!(errno(guest.about(file)), Some(libc::ESTALE));
    assert_eq!(errno(guest.list(directory)), Some(libc::ESTALE));
    assert_eq!(errno(guest.find("directory")), Some(libc::ENOENT));
}

#[test]
fn a_directory_that_the_host_renamed_takes_what_is_below_along() {
    let guest = Guest::new();
    guest.host_writes("a/b/c/file", "x");
    let file = guest.number("a/b/c/file");
    guest.use_much_else();
    assert!(!guest.holds("a") && !guest.holds("a/b/c/file"));
    fs::rename(guest.host("a"), guest.host("z")).unwrap();
    assert_eq!(errno(guest.read(file)), Some(libc::ESTALE));
    // The guest's kernel walks the new path to the same files, one of which is enough.
    guest.number("z");
    assert_eq!(guest.read(file).unwrap(), "x");
    assert_eq!(guest.number("z/b/c/file"), file);
}

#[test]
fn directories_turned_inside_out_do_not_trap() {
    let guest = Guest::new();
    guest.host_writes("a/b/file", "x");
    let (a, b) = (guest.number("a"), guest.number("a/b"));
    fs::rename(guest.host("a/b"), guest.host("b")).unwrap();
    fs::rename(guest.host("a"), guest.host("b/a")).unwrap();
    // `b` is still open and known to lie in `a`, which is now seen in `b`.
    assert_eq!(guest.look_up(b, "a").unwrap().inode, a);
    guest.use_much_else();
    assert_eq!(errno(guest.about(a)), Some(libc::ESTALE));
    assert_eq!(guest.number("b/a"), a);
    assert_eq!(guest.number("b"), b);
}

#[test]
fn a_file_becomes_a_directory() {
    let guest = Guest::new();
    guest.host_writes("a/x", "");
    let x = guest.number("a/x");
    guest.use_much_else();
    fs::remove_dir_all(guest.host("a")).unwrap();
    guest.host_writes("a", "file");
    assert_eq!(errno(guest.about(x)), Some(libc::ESTALE));
    let a = guest.number("a");
    assert_eq!(guest.read(a).unwrap(), "file");
}
