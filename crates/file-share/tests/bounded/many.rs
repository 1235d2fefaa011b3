use std::{io, os::unix::net::UnixListener, thread};

use container_file_share::Bounded;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use virtiofsd::{
    filesystem::{FileSystem, GetxattrReply, ListxattrReply, ROOT_ID, SetxattrFlags},
    passthrough::PassthroughFs,
};

use crate::guest::{Guest, LIMIT, c_string, context, errno};

/// Many more files than may be held open.
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

/// Looks at everything, as `ls -lR` and `grep -r` do, and counts the files.
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
            assert_eq!(guest.about(entry.inode)?.ino, entry.attr.ino);
            guest.read(entry.inode)?;
            files += 1;
        }
    }
    Ok(files)
}

#[test]
fn more_files_than_descriptors_are_walked_and_written_in() {
    let guest = Guest::new();
    fill(&guest);
    assert_eq!(walk(&guest, ROOT_ID).unwrap(), 600);
    assert_eq!(walk(&guest, ROOT_ID).unwrap(), 600);
    for directory in 0..20 {
        let inode = guest.number(&format!("d{directory}"));
        let (entry, handle) = guest.create(inode, "new").unwrap();
        guest.close(entry.inode, handle);
        guest.write(entry.inode, "written").unwrap();
    }
    assert_eq!(walk(&guest, ROOT_ID).unwrap(), 620);
    for directory in 0..20 {
        let new = guest.number(&format!("d{directory}/new"));
        assert_eq!(guest.read(new).unwrap(), "written");
    }
    assert!(guest.file_system.held() <= LIMIT);
    assert_eq!(guest.file_system.known(), 641);
}

#[test]
fn the_file_system_below_ends_where_ours_goes_on() {
    let guest = Guest::without_bound();
    fill(&guest);
    assert_eq!(errno(walk(&guest, ROOT_ID)), Some(libc::ENFILE));
    assert_eq!(errno(guest.create(ROOT_ID, "new")), Some(libc::ENFILE));
}

#[test]
fn what_the_guest_knows_keeps_its_number_and_is_read_without_being_looked_up_again() {
    let guest = Guest::new();
    fill(&guest);
    let numbers: Vec<(String, u64)> = (0..20)
        .flat_map(|directory| (0..30).map(move |file| (directory, file)))
        .map(|(directory, file)| {
            let number = guest.number(&format!("d{directory}/f{file}"));
            (format!("{directory} {file}"), number)
        })
        .collect();
    for (contents, number) in &numbers {
        assert_eq!(&guest.read(*number).unwrap(), contents);
    }
    for (contents, number) in numbers {
        let path = format!("d{}", contents.replace(' ', "/f"));
        assert_eq!(guest.number(&path), number);
    }
}

#[test]
fn what_is_forgotten_is_dropped() {
    let guest = Guest::new();
    fill(&guest);
    for directory in 0..20 {
        let number = guest.number(&format!("d{directory}"));
        for file in 0..30 {
            let entry = guest.look_up(number, &format!("f{file}")).unwrap();
            guest.look_up(number, &format!("f{file}")).unwrap();
            guest.file_system.forget(context(), entry.inode, 1);
            guest.about(entry.inode).unwrap();
            guest
                .file_system
                .batch_forget(context(), vec![(entry.inode, 1)]);
            assert_eq!(errno(guest.about(entry.inode)), Some(libc::EBADF));
        }
        guest.file_system.forget(context(), number, 1);
    }
    assert_eq!(
        (guest.file_system.known(), guest.file_system.held()),
        (1, 1)
    );
    guest.file_system.forget(context(), ROOT_ID, 100);
    assert!(guest.find("d0").is_ok());
    guest.file_system.destroy();
    assert_eq!(guest.file_system.known(), 1);
}

#[test]
fn every_kind_of_file_is_found_again() {
    let guest = Guest::new();
    guest.host_writes("kinds/file", "x");
    std::os::unix::fs::symlink("file", guest.host("kinds/link")).unwrap();
    let _socket = UnixListener::bind(guest.host("kinds/socket")).unwrap();
    mknodat(CWD, guest.host("kinds/pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    let names = ["file", "link", "socket", "pipe"];
    let before = names.map(|name| guest.find(&format!("kinds/{name}")).unwrap());
    guest.use_much_else();
    for (name, before) in names.iter().zip(&before) {
        assert!(!guest.holds(&format!("kinds/{name}")));
        let about = guest.about(before.inode).unwrap();
        assert_eq!((about.ino, about.mode), (before.attr.ino, before.attr.mode));
        assert_eq!(guest.number(&format!("kinds/{name}")), before.inode);
    }
    guest.use_much_else();
    let target = guest.file_system.readlink(context(), before[1].inode);
    assert_eq!(target.unwrap(), b"file");
}

#[test]
fn extended_attributes_are_those_of_the_file() {
    let guest = Guest::new();
    guest.host_writes("file", "");
    let file = guest.number("file");
    let name = c_string("user.kept");
    let flags = SetxattrFlags::empty();
    guest.use_much_else();
    guest
        .file_system
        .setxattr(context(), file, &name, b"value", 0, flags)
        .unwrap();
    guest.use_much_else();
    let GetxattrReply::Value(value) = guest
        .file_system
        .getxattr(context(), file, &name, 100)
        .unwrap()
    else {
        panic!("no value");
    };
    assert_eq!(value, b"value");
    guest.use_much_else();
    let ListxattrReply::Names(names) = guest.file_system.listxattr(context(), file, 100).unwrap()
    else {
        panic!("no names");
    };
    assert!(names.starts_with(b"user.kept\0"), "{names:?}");
    guest.use_much_else();
    guest
        .file_system
        .removexattr(context(), file, &name)
        .unwrap();
    let gone = guest.file_system.getxattr(context(), file, &name, 100);
    assert_eq!(errno(gone), Some(libc::ENODATA));
}

#[test]
fn a_read_only_share_is_walked_and_not_written_in() {
    let writable = Guest::new();
    fill(&writable);
    let guest = Guest::of_read_only(writable.home);
    assert_eq!(walk(&guest, ROOT_ID).unwrap(), 600);
    assert_eq!(walk(&guest, ROOT_ID).unwrap(), 600);
    assert!(guest.file_system.held() <= LIMIT);
    let file = guest.number("d0/f0");
    let directory = guest.number("d0");
    assert_eq!(errno(guest.open(file, libc::O_RDWR)), Some(libc::EROFS));
    assert_eq!(errno(guest.create(directory, "new")), Some(libc::EROFS));
    assert_eq!(errno(guest.unlink(directory, "f0")), Some(libc::EROFS));
    let renamed = guest.rename((directory, "f0"), (directory, "new"), 0);
    assert_eq!(errno(renamed), Some(libc::EROFS));
    assert_eq!(guest.read(file).unwrap(), "0 0");
}

#[test]
fn as_many_files_as_descriptors_allow_are_open_at_once() {
    let guest = Guest::new();
    fill(&guest);
    walk(&guest, ROOT_ID).unwrap();
    let mut open = Vec::new();
    for file in 0..30 {
        let number = guest.number(&format!("d0/f{file}"));
        open.push((number, guest.open(number, libc::O_RDONLY).unwrap()));
    }
    walk(&guest, ROOT_ID).unwrap();
    for (file, (number, handle)) in open.into_iter().enumerate() {
        let contents = guest.read_open(number, handle).unwrap();
        assert_eq!(contents, format!("0 {file}"));
        guest.close(number, handle);
    }
    assert!(guest.file_system.held() <= LIMIT);
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let guest = Guest::new();
    guest.host_writes("directory/file", "");
    let directory = guest.number("directory");
    for name in ["..", ".", "../directory", "/etc", ""] {
        assert_eq!(errno(guest.look_up(directory, name)), Some(libc::EINVAL));
        assert_eq!(errno(guest.create(directory, name)), Some(libc::EINVAL));
        assert_eq!(errno(guest.unlink(directory, name)), Some(libc::EINVAL));
    }
}

#[test]
fn several_requests_at_once_do_not_close_each_others_files() {
    let guest = Guest::new();
    fill(&guest);
    let shared: &Guest<Bounded<PassthroughFs>> = &guest;
    thread::scope(|scope| {
        let walks: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| walk(shared, ROOT_ID).unwrap()))
            .collect();
        for walked in walks {
            assert_eq!(walked.join().unwrap(), 600);
        }
    });
    assert!(guest.file_system.held() <= LIMIT);
}
