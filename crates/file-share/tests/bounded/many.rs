//! More files than descriptors.

use std::{io, os::unix::net::UnixListener, thread};

use container_file_share::BoundedFileSystem;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use virtiofsd::{
    filesystem::{FileSystem, GetxattrReply, ListxattrReply, ROOT_ID, SetxattrFlags},
    passthrough::PassthroughFs,
};

use crate::guest::{Guest, LIMIT, c_string, context, errno};

/// Writes many more files than the limit of descriptors.
fn fill<F: FileSystem<Inode = u64, Handle = u64>>(guest: &Guest<F>) {
    for directory in 0..20 {
        for file in 0..30 {
            guest.host_writes(
                &format!("d{directory}/f{file}"),
                &format!("{directory} {file}"),
            );
        }
    }
}

/// Lists and reads everything, as `ls -lR` and `grep -r` do, and counts the files.
fn walk<F: FileSystem<Inode = u64, Handle = u64>>(
    guest: &Guest<F>,
    directory: u64,
) -> io::Result<usize> {
    let mut files = 0;
    for name in guest.list(directory)? {
        let entry = guest.look_up(directory, &name)?;
        if entry.attr.mode & libc::S_IFMT == libc::S_IFDIR {
            files += walk(guest, entry.inode)?;
        } else {
            assert_eq!(guest.attributes(entry.inode)?.ino, entry.attr.ino);
            guest.read(entry.inode)?;
            files += 1;
        }
    }
    Ok(files)
}

#[test]
fn more_files_than_descriptors_are_read_and_written() {
    let guest = Guest::new();
    fill(&guest);
    assert_eq!(walk(&guest, ROOT_ID).unwrap(), 600);
    assert_eq!(walk(&guest, ROOT_ID).unwrap(), 600);
    for directory in 0..20 {
        let inode = guest.inode(&format!("d{directory}"));
        let (entry, handle) = guest.create(inode, "new").unwrap();
        guest.close(entry.inode, handle);
        guest.write(entry.inode, "written").unwrap();
    }
    assert_eq!(walk(&guest, ROOT_ID).unwrap(), 620);
    for directory in 0..20 {
        let new = guest.inode(&format!("d{directory}/new"));
        assert_eq!(guest.read(new).unwrap(), "written");
    }
    assert!(guest.file_system.open_descriptors() <= LIMIT);
    assert_eq!(guest.file_system.remembered_files(), 641);
}

#[test]
fn the_inner_file_system_fails_at_the_limit() {
    let guest = Guest::without_bound();
    fill(&guest);
    assert_eq!(errno(walk(&guest, ROOT_ID)), Some(libc::ENFILE));
    assert_eq!(errno(guest.create(ROOT_ID, "new")), Some(libc::ENFILE));
}

#[test]
fn remembered_files_keep_their_inodes_and_need_no_lookup() {
    let guest = Guest::new();
    fill(&guest);
    let numbers: Vec<(String, u64)> = (0..20)
        .flat_map(|directory| (0..30).map(move |file| (directory, file)))
        .map(|(directory, file)| {
            let number = guest.inode(&format!("d{directory}/f{file}"));
            (format!("{directory} {file}"), number)
        })
        .collect();
    for (contents, number) in &numbers {
        assert_eq!(&guest.read(*number).unwrap(), contents);
    }
    for (contents, number) in numbers {
        let path = format!("d{}", contents.replace(' ', "/f"));
        assert_eq!(guest.inode(&path), number);
    }
}

#[test]
fn forgotten_files_are_removed() {
    let guest = Guest::new();
    fill(&guest);
    for directory in 0..20 {
        let number = guest.inode(&format!("d{directory}"));
        for file in 0..30 {
            let entry = guest.look_up(number, &format!("f{file}")).unwrap();
            guest.look_up(number, &format!("f{file}")).unwrap();
            guest.file_system.forget(context(), entry.inode, 1);
            guest.attributes(entry.inode).unwrap();
            guest
                .file_system
                .batch_forget(context(), vec![(entry.inode, 1)]);
            assert_eq!(errno(guest.attributes(entry.inode)), Some(libc::EBADF));
        }
        guest.file_system.forget(context(), number, 1);
    }
    assert_eq!(
        (
            guest.file_system.remembered_files(),
            guest.file_system.open_descriptors()
        ),
        (1, 1)
    );
    guest.file_system.forget(context(), ROOT_ID, 100);
    assert!(guest.find("d0").is_ok());
    guest.file_system.destroy();
    assert_eq!(guest.file_system.remembered_files(), 1);
}

#[test]
fn files_of_every_type_are_found_again() {
    let guest = Guest::new();
    guest.host_writes("kinds/file", "x");
    std::os::unix::fs::symlink("file", guest.host("kinds/link")).unwrap();
    let _socket = UnixListener::bind(guest.host("kinds/socket")).unwrap();
    mknodat(CWD, guest.host("kinds/pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    let names = ["file", "link", "socket", "pipe"];
    let before = names.map(|name| guest.find(&format!("kinds/{name}")).unwrap());
    guest.use_many_other_files();
    for (name, before) in names.iter().zip(&before) {
        assert!(!guest.holds(&format!("kinds/{name}")));
        let attributes = guest.attributes(before.inode).unwrap();
        assert_eq!(
            (attributes.ino, attributes.mode),
            (before.attr.ino, before.attr.mode)
        );
        assert_eq!(guest.inode(&format!("kinds/{name}")), before.inode);
    }
    guest.use_many_other_files();
    let target = guest.file_system.readlink(context(), before[1].inode);
    assert_eq!(target.unwrap(), b"file");
}

#[test]
fn extended_attributes_are_passed_through() {
    let guest = Guest::new();
    guest.host_writes("file", "");
    let file = guest.inode("file");
    let name = c_string("user.kept");
    let flags = SetxattrFlags::empty();
    guest.use_many_other_files();
    guest
        .file_system
        .setxattr(context(), file, &name, b"value", 0, flags)
        .unwrap();
    guest.use_many_other_files();
    let GetxattrReply::Value(value) = guest
        .file_system
        .getxattr(context(), file, &name, 100)
        .unwrap()
    else {
        panic!("no value");
    };
    assert_eq!(value, b"value");
    guest.use_many_other_files();
    let ListxattrReply::Names(names) = guest.file_system.listxattr(context(), file, 100).unwrap()
    else {
        panic!("no names");
    };
    assert!(names.starts_with(b"user.kept\0"), "{names:?}");
    guest.use_many_other_files();
    guest
        .file_system
        .removexattr(context(), file, &name)
        .unwrap();
    let gone = guest.file_system.getxattr(context(), file, &name, 100);
    assert_eq!(errno(gone), Some(libc::ENODATA));
}

#[test]
fn a_read_only_share_is_read_and_not_written() {
    let writable = Guest::new();
    fill(&writable);
    let guest = Guest::new_read_only(writable.home);
    assert_eq!(walk(&guest, ROOT_ID).unwrap(), 600);
    assert_eq!(walk(&guest, ROOT_ID).unwrap(), 600);
    assert!(guest.file_system.open_descriptors() <= LIMIT);
    let file = guest.inode("d0/f0");
    let directory = guest.inode("d0");
    assert_eq!(errno(guest.open(file, libc::O_RDWR)), Some(libc::EROFS));
    assert_eq!(errno(guest.create(directory, "new")), Some(libc::EROFS));
    assert_eq!(errno(guest.unlink(directory, "f0")), Some(libc::EROFS));
    let renamed = guest.rename((directory, "f0"), (directory, "new"), 0);
    assert_eq!(errno(renamed), Some(libc::EROFS));
    assert_eq!(guest.read(file).unwrap(), "0 0");
}

#[test]
fn the_guest_can_have_many_files_open() {
    let guest = Guest::new();
    fill(&guest);
    walk(&guest, ROOT_ID).unwrap();
    let mut open = Vec::new();
    for file in 0..30 {
        let number = guest.inode(&format!("d0/f{file}"));
        open.push((number, guest.open(number, libc::O_RDONLY).unwrap()));
    }
    walk(&guest, ROOT_ID).unwrap();
    for (file, (number, handle)) in open.into_iter().enumerate() {
        let contents = guest.read_open(number, handle).unwrap();
        assert_eq!(contents, format!("0 {file}"));
        guest.close(number, handle);
    }
    assert!(guest.file_system.open_descriptors() <= LIMIT);
}

#[test]
fn names_that_leave_the_directory_are_refused() {
    let guest = Guest::new();
    guest.host_writes("directory/file", "");
    let directory = guest.inode("directory");
    for name in ["..", ".", "../directory", "/etc", ""] {
        assert_eq!(errno(guest.look_up(directory, name)), Some(libc::EINVAL));
        assert_eq!(errno(guest.create(directory, name)), Some(libc::EINVAL));
        assert_eq!(errno(guest.unlink(directory, name)), Some(libc::EINVAL));
    }
}

#[test]
fn concurrent_requests_do_not_close_each_others_files() {
    let guest = Guest::new();
    fill(&guest);
    let shared: &Guest<BoundedFileSystem<PassthroughFs>> = &guest;
    thread::scope(|scope| {
        let walks: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| walk(shared, ROOT_ID).unwrap()))
            .collect();
        for walked in walks {
            assert_eq!(walked.join().unwrap(), 600);
        }
    });
    assert!(guest.file_system.open_descriptors() <= LIMIT);
}
