use std::{fs, io::Read};

use virtiofsd::filesystem::{Extensions, FileSystem, ROOT_ID};

use crate::guest::{Guest, c_string, context, errno};

#[test]
fn a_renamed_file_is_found_by_its_new_name() {
    let guest = Guest::new();
    guest.host_writes("a/file", "x");
    guest.host_writes("b/other", "");
    let file = guest.number("a/file");
    let (a, b) = (guest.number("a"), guest.number("b"));
    guest.use_much_else();
    guest.rename((a, "file"), (b, "moved"), 0).unwrap();
    guest.use_much_else();
    assert!(!guest.holds("b/moved"));
    assert_eq!(guest.read(file).unwrap(), "x");
    assert_eq!(guest.number("b/moved"), file);
}

#[test]
fn what_is_below_a_renamed_directory_is_found() {
    let guest = Guest::new();
    guest.host_writes("a/b/c/file", "x");
    let file = guest.number("a/b/c/file");
    guest.use_much_else();
    guest.rename((ROOT_ID, "a"), (ROOT_ID, "z"), 0).unwrap();
    guest.use_much_else();
    assert_eq!(guest.read(file).unwrap(), "x");
}

#[test]
fn a_file_renamed_over_is_still_there_for_who_has_it_open() {
    let guest = Guest::new();
    guest.host_writes("old", "old");
    guest.host_writes("new", "new");
    let (old, new) = (guest.number("old"), guest.number("new"));
    let handle = guest.open(old, libc::O_RDONLY).unwrap();
    guest.rename((ROOT_ID, "new"), (ROOT_ID, "old"), 0).unwrap();
    guest.use_much_else();
    assert_eq!(guest.read_open(old, handle).unwrap(), "old");
    assert_eq!(guest.read(new).unwrap(), "new");
    assert_eq!(guest.number("old"), new);
    guest.close(old, handle);
}

#[test]
fn exchanged_files_are_found_by_each_others_names() {
    let guest = Guest::new();
    guest.host_writes("a", "a");
    guest.host_writes("b", "b");
    let (a, b) = (guest.number("a"), guest.number("b"));
    let exchange = libc::RENAME_EXCHANGE;
    guest
        .rename((ROOT_ID, "a"), (ROOT_ID, "b"), exchange)
        .unwrap();
    guest.use_much_else();
    assert_eq!(guest.read(a).unwrap(), "a");
    assert_eq!(guest.read(b).unwrap(), "b");
    assert_eq!((guest.number("a"), guest.number("b")), (b, a));
}

#[test]
fn the_names_of_one_file_lead_to_one_number() {
    let guest = Guest::new();
    guest.host_writes("a", "x");
    let a = guest.number("a");
    guest.use_much_else();
    let linked = guest
        .file_system
        .link(context(), a, ROOT_ID, &c_string("b"))
        .unwrap();
    assert_eq!((linked.inode, linked.attr.nlink), (a, 2));
    guest.use_much_else();
    assert_eq!((guest.number("a"), guest.number("b")), (a, a));
    // A rename of one onto the other leaves both.
    guest.rename((ROOT_ID, "a"), (ROOT_ID, "b"), 0).unwrap();
    guest.use_much_else();
    assert_eq!(guest.read(a).unwrap(), "x");
    // A name that it is not known by goes, then the one that it is.
    guest.number("b");
    guest.unlink(ROOT_ID, "a").unwrap();
    guest.use_much_else();
    assert_eq!(guest.read(a).unwrap(), "x");
    fs::hard_link(guest.host("b"), guest.host("c")).unwrap();
    guest.unlink(ROOT_ID, "b").unwrap();
    guest.use_much_else();
    assert_eq!(guest.read(a).unwrap(), "x");
    assert_eq!(guest.number("c"), a);
}

#[test]
fn a_removed_file_is_there_as_long_as_the_guest_remembers_it() {
    let guest = Guest::new();
    guest.host_writes("open", "open");
    guest.host_writes("known", "known");
    let (open, known) = (guest.number("open"), guest.number("known"));
    let handle = guest.open(open, libc::O_RDWR).unwrap();
    guest.unlink(ROOT_ID, "open").unwrap();
    guest.unlink(ROOT_ID, "known").unwrap();
    guest.use_much_else();
    assert_eq!(guest.read_open(open, handle).unwrap(), "open");
    assert_eq!(guest.about(open).unwrap().nlink, 0);
    assert_eq!(guest.read(known).unwrap(), "known");
    guest.close(open, handle);
    let before = guest.file_system.known();
    guest.file_system.forget(context(), open, 1);
    guest.file_system.forget(context(), known, 1);
    assert_eq!(guest.file_system.known(), before - 2);
    assert_eq!(errno(guest.about(known)), Some(libc::EBADF));
}

#[test]
fn a_removed_working_directory_is_still_a_directory() {
    let guest = Guest::new();
    guest.host_writes("a/b", "");
    let a = guest.number("a");
    guest.unlink(a, "b").unwrap();
    guest
        .file_system
        .rmdir(context(), ROOT_ID, &c_string("a"))
        .unwrap();
    guest.use_much_else();
    assert_eq!(guest.about(a).unwrap().nlink, 0);
}

#[test]
fn a_removal_that_fails_changes_nothing() {
    let guest = Guest::new();
    guest.host_writes("a/file", "x");
    let (a, file) = (guest.number("a"), guest.number("a/file"));
    let removed = guest.file_system.rmdir(context(), ROOT_ID, &c_string("a"));
    assert_eq!(errno(removed), Some(libc::ENOTEMPTY));
    assert_eq!(errno(guest.unlink(a, "nothing")), Some(libc::ENOENT));
    guest.use_much_else();
    assert!(!guest.holds("a"));
    assert_eq!(guest.read(file).unwrap(), "x");
}

#[test]
fn what_is_made_is_made_in_the_right_directory() {
    let guest = Guest::new();
    guest.host_writes("a/b/file", "");
    let b = guest.number("a/b");
    guest.use_much_else();
    let made = guest
        .file_system
        .mkdir(
            context(),
            b,
            &c_string("made"),
            0o755,
            0,
            Extensions::default(),
        )
        .unwrap();
    guest.use_much_else();
    guest
        .file_system
        .symlink(
            context(),
            &c_string("target"),
            made.inode,
            &c_string("link"),
            Extensions::default(),
        )
        .unwrap();
    guest.use_much_else();
    let pipe = guest
        .file_system
        .mknod(
            context(),
            made.inode,
            &c_string("pipe"),
            libc::S_IFIFO | 0o600,
            0,
            0,
            Extensions::default(),
        )
        .unwrap();
    guest.use_much_else();
    let (file, handle) = guest.create(made.inode, "file").unwrap();
    guest.use_much_else();
    guest.write(file.inode, "x").unwrap();
    guest.close(file.inode, handle);
    assert_eq!(guest.list(made.inode).unwrap(), ["file", "link", "pipe"]);
    assert_eq!(guest.about(pipe.inode).unwrap().ino, pipe.attr.ino);
    let target = fs::read_link(guest.host("a/b/made/link")).unwrap();
    assert_eq!(target.to_str(), Some("target"));
    let mut contents = String::new();
    let mut file = fs::File::open(guest.host("a/b/made/file")).unwrap();
    file.read_to_string(&mut contents).unwrap();
    assert_eq!(contents, "x");
}
