//! Changes that the guest makes.

use std::{fs, io::Read};

use virtiofsd::filesystem::{Extensions, FileSystem, ROOT_ID};

use crate::guest::{Guest, c_string, context, errno};

#[test]
fn a_renamed_file_is_found_by_its_new_name() {
    let guest = Guest::new();
    guest.host_writes("a/file", "x");
    guest.host_writes("b/other", "");
    let file = guest.inode("a/file");
    let (a, b) = (guest.inode("a"), guest.inode("b"));
    guest.use_many_other_files();
    guest.rename((a, "file"), (b, "moved"), 0).unwrap();
    guest.use_many_other_files();
    assert!(!guest.holds("b/moved"));
    assert_eq!(guest.read(file).unwrap(), "x");
    assert_eq!(guest.inode("b/moved"), file);
}

#[test]
fn files_in_a_renamed_directory_are_found() {
    let guest = Guest::new();
    guest.host_writes("a/b/c/file", "x");
    let file = guest.inode("a/b/c/file");
    guest.use_many_other_files();
    guest.rename((ROOT_ID, "a"), (ROOT_ID, "z"), 0).unwrap();
    guest.use_many_other_files();
    assert_eq!(guest.read(file).unwrap(), "x");
}

#[test]
fn an_open_file_that_is_replaced_stays_readable() {
    let guest = Guest::new();
    guest.host_writes("old", "old");
    guest.host_writes("new", "new");
    let (old, new) = (guest.inode("old"), guest.inode("new"));
    let handle = guest.open(old, libc::O_RDONLY).unwrap();
    guest.rename((ROOT_ID, "new"), (ROOT_ID, "old"), 0).unwrap();
    guest.use_many_other_files();
    assert_eq!(guest.read_open(old, handle).unwrap(), "old");
    assert_eq!(guest.read(new).unwrap(), "new");
    assert_eq!(guest.inode("old"), new);
    guest.close(old, handle);
}

#[test]
fn exchanged_files_are_found_by_each_others_names() {
    let guest = Guest::new();
    guest.host_writes("a", "a");
    guest.host_writes("b", "b");
    let (a, b) = (guest.inode("a"), guest.inode("b"));
    let exchange = libc::RENAME_EXCHANGE;
    guest
        .rename((ROOT_ID, "a"), (ROOT_ID, "b"), exchange)
        .unwrap();
    guest.use_many_other_files();
    assert_eq!(guest.read(a).unwrap(), "a");
    assert_eq!(guest.read(b).unwrap(), "b");
    assert_eq!((guest.inode("a"), guest.inode("b")), (b, a));
}

#[test]
fn hard_links_share_an_inode() {
    let guest = Guest::new();
    guest.host_writes("a", "x");
    let a = guest.inode("a");
    guest.use_many_other_files();
    let linked = guest
        .file_system
        .link(context(), a, ROOT_ID, &c_string("b"))
        .unwrap();
    assert_eq!((linked.inode, linked.attr.nlink), (a, 2));
    guest.use_many_other_files();
    assert_eq!((guest.inode("a"), guest.inode("b")), (a, a));
    // A rename of one onto the other leaves both.
    guest.rename((ROOT_ID, "a"), (ROOT_ID, "b"), 0).unwrap();
    guest.use_many_other_files();
    assert_eq!(guest.read(a).unwrap(), "x");
    // First another name is removed, then the one by which the file is known.
    guest.inode("b");
    guest.unlink(ROOT_ID, "a").unwrap();
    guest.use_many_other_files();
    assert_eq!(guest.read(a).unwrap(), "x");
    fs::hard_link(guest.host("b"), guest.host("c")).unwrap();
    guest.unlink(ROOT_ID, "b").unwrap();
    guest.use_many_other_files();
    assert_eq!(guest.read(a).unwrap(), "x");
    assert_eq!(guest.inode("c"), a);
}

#[test]
fn a_removed_file_exists_while_the_guest_remembers_it() {
    let guest = Guest::new();
    guest.host_writes("open", "open");
    guest.host_writes("known", "known");
    let (open, known) = (guest.inode("open"), guest.inode("known"));
    let handle = guest.open(open, libc::O_RDWR).unwrap();
    guest.unlink(ROOT_ID, "open").unwrap();
    guest.unlink(ROOT_ID, "known").unwrap();
    guest.use_many_other_files();
    assert_eq!(guest.read_open(open, handle).unwrap(), "open");
    assert_eq!(guest.attributes(open).unwrap().nlink, 0);
    assert_eq!(guest.read(known).unwrap(), "known");
    guest.close(open, handle);
    let before = guest.file_system.remembered_files();
    guest.file_system.forget(context(), open, 1);
    guest.file_system.forget(context(), known, 1);
    assert_eq!(guest.file_system.remembered_files(), before - 2);
    assert_eq!(errno(guest.attributes(known)), Some(libc::EBADF));
}

#[test]
fn a_removed_working_directory_is_still_a_directory() {
    let guest = Guest::new();
    guest.host_writes("a/b", "");
    let a = guest.inode("a");
    guest.unlink(a, "b").unwrap();
    guest
        .file_system
        .rmdir(context(), ROOT_ID, &c_string("a"))
        .unwrap();
    guest.use_many_other_files();
    assert_eq!(guest.attributes(a).unwrap().nlink, 0);
}

#[test]
fn a_failed_removal_changes_nothing() {
    let guest = Guest::new();
    guest.host_writes("a/file", "x");
    let (a, file) = (guest.inode("a"), guest.inode("a/file"));
    let removed = guest.file_system.rmdir(context(), ROOT_ID, &c_string("a"));
    assert_eq!(errno(removed), Some(libc::ENOTEMPTY));
    assert_eq!(errno(guest.unlink(a, "nothing")), Some(libc::ENOENT));
    guest.use_many_other_files();
    assert!(!guest.holds("a"));
    assert_eq!(guest.read(file).unwrap(), "x");
}

#[test]
fn files_are_created_in_the_right_directory() {
    let guest = Guest::new();
    guest.host_writes("a/b/file", "");
    let b = guest.inode("a/b");
    guest.use_many_other_files();
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
    guest.use_many_other_files();
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
    guest.use_many_other_files();
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
    guest.use_many_other_files();
    let (file, handle) = guest.create(made.inode, "file").unwrap();
    guest.use_many_other_files();
    guest.write(file.inode, "x").unwrap();
    guest.close(file.inode, handle);
    assert_eq!(guest.list(made.inode).unwrap(), ["file", "link", "pipe"]);
    assert_eq!(guest.attributes(pipe.inode).unwrap().ino, pipe.attr.ino);
    let target = fs::read_link(guest.host("a/b/made/link")).unwrap();
    assert_eq!(target.to_str(), Some("target"));
    let mut contents = String::new();
    let mut file = fs::File::open(guest.host("a/b/made/file")).unwrap();
    file.read_to_string(&mut contents).unwrap();
    assert_eq!(contents, "x");
}
