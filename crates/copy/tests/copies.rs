//! What a copy preserves, and where it is written.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    fs,
    os::unix::{fs::PermissionsExt, fs::symlink, net::UnixListener},
    path::Path,
};

use container_copy::{CopyError, RootName, UnpackMode, pack, unpack};

/// Packs and unpacks as the two sides do. Returns the messages about skipped files.
fn copy(from: &Path, to: &Path, contents_only: bool) -> Result<Vec<String>, CopyError> {
    let (mut stream, mut notes) = (Vec::new(), Vec::new());
    pack(from, RootName::Dot, &mut stream, &mut |note| {
        notes.push(note);
    })?;
    let name = from.file_name().filter(|_| !contents_only);
    let mode = UnpackMode::Copy {
        name: name.map(Into::into),
    };
    unpack(stream.as_slice(), to, &mode, &mut |note| {
        notes.push(note);
    })?;
    Ok(notes)
}

fn tree() -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    let tree = place.path().join("tree");
    fs::create_dir_all(tree.join("deep/er")).unwrap();
    fs::write(tree.join("run"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(tree.join("run"), fs::Permissions::from_mode(0o4755)).unwrap();
    fs::write(tree.join("deep/er/file"), "deep").unwrap();
    symlink("er/file", tree.join("deep/link")).unwrap();
    fs::set_permissions(tree.join("deep"), fs::Permissions::from_mode(0o555)).unwrap();
    place
}

#[test]
fn a_copied_tree_keeps_contents_modes_and_links() {
    let (from, to) = (tree(), tempfile::tempdir().unwrap());
    let notes = copy(&from.path().join("tree"), to.path(), false).unwrap();
    assert_eq!(notes, [""; 0]);
    let copied = to.path().join("tree");
    assert_eq!(
        fs::read_to_string(copied.join("deep/link")).unwrap(),
        "deep"
    );
    assert!(copied.join("deep/link").is_symlink());
    let mode = |path: &str| {
        fs::metadata(copied.join(path))
            .unwrap()
            .permissions()
            .mode()
            & 0o7777
    };
    assert_eq!((mode("run"), mode("deep")), (0o755, 0o555));
    let time = |of: &Path| fs::metadata(of.join("run")).unwrap().modified().unwrap();
    let difference = time(&from.path().join("tree")).duration_since(time(&copied));
    assert!(difference.unwrap().as_secs() < 1);
    fs::set_permissions(copied.join("deep"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(
        from.path().join("tree/deep"),
        fs::Permissions::from_mode(0o755),
    )
    .unwrap();
}

#[test]
fn a_copy_is_named_by_its_destination() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (file, directory) = (from.path().join("file"), from.path().join("dir"));
    fs::write(&file, "one").unwrap();
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("in"), "two").unwrap();
    let at = |path: &str| to.path().join(path);
    let read = |path: &str| fs::read_to_string(at(path)).unwrap();

    copy(&file, to.path(), false).unwrap();
    copy(&file, &at("new name"), false).unwrap();
    assert_eq!(
        (read("file"), read("new name")),
        ("one".into(), "one".into())
    );
    copy(&directory, to.path(), false).unwrap();
    copy(&directory, &at("new dir"), false).unwrap();
    copy(&directory, to.path(), true).unwrap();
    assert_eq!(
        (read("dir/in"), read("new dir/in")),
        ("two".into(), "two".into())
    );
    assert_eq!(read("in"), "two");
    fs::set_permissions(to.path(), fs::Permissions::from_mode(0o1777)).unwrap();
    copy(&directory, to.path(), true).unwrap();
    let mode = fs::metadata(to.path()).unwrap().permissions().mode();
    assert_eq!(
        mode & 0o7777,
        0o1777,
        "an existing directory keeps its mode"
    );
    copy(&directory, &at("new dir"), false).unwrap();
    assert_eq!(read("new dir/dir/in"), "two");

    symlink("file", at("link")).unwrap();
    fs::write(&file, "three").unwrap();
    copy(&file, &at("link"), false).unwrap();
    assert_eq!(read("file"), "three", "the symlink's target is replaced");

    let refused = |from: &Path, to: &str| copy(from, &at(to), false).unwrap_err().to_string();
    assert!(refused(&file, "none/").contains("no such directory"));
    assert!(refused(&file, "none/x").contains("no such directory"));
    assert!(refused(&directory, "file").contains("not a directory"));
    fs::create_dir(at("other")).unwrap();
    fs::create_dir(at("other/file")).unwrap();
    symlink("/tmp", at("other/dir")).unwrap();
    assert!(refused(&directory, "other").contains("is a symlink"));
    assert!(refused(&file, "other").contains("is a directory"));
}

#[test]
fn a_socket_is_reported_and_the_rest_is_copied() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let _socket = UnixListener::bind(from.path().join("socket")).unwrap();
    fs::write(from.path().join("file"), "x").unwrap();
    let notes = copy(from.path(), to.path(), true).unwrap();
    assert!(notes[0].contains("a socket"), "{notes:?}");
    assert!(to.path().join("file").exists());
}

#[test]
fn a_device_is_refused_and_nothing_is_created() {
    let to = tempfile::tempdir().unwrap();
    let target = to.path().join("target");
    let refused = copy(Path::new("/dev/null"), &target, false)
        .unwrap_err()
        .to_string();
    assert!(refused.contains("a device"), "{refused}");
    let mode = UnpackMode::Copy { name: None };
    unpack(&[0; 1024][..], &target, &mode, &mut |_| ()).unwrap();
    assert!(!target.exists());
}

#[test]
fn a_hard_link_replaces_an_existing_file() {
    let to = tempfile::tempdir().unwrap();
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(3);
    header.set_mode(0o644);
    builder
        .append_data(&mut header, "file", &b"new"[..])
        .unwrap();
    header.set_entry_type(tar::EntryType::Link);
    header.set_size(0);
    builder.append_link(&mut header, "hard", "file").unwrap();
    let stream = builder.into_inner().unwrap();
    for _ in 0..2 {
        unpack(&*stream, to.path(), &UnpackMode::Tar, &mut |_| ()).unwrap();
        assert_eq!(fs::read_to_string(to.path().join("hard")).unwrap(), "new");
    }
}

/// A stream whose only member is a link of this kind.
fn link_only(kind: tar::EntryType, target: &str) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(0);
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_link(&mut header, "file", target).unwrap();
    archive.into_inner().unwrap()
}

#[test]
fn a_link_in_place_of_a_file_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let secret = place.path().join("secret");
    fs::write(&secret, "kept").unwrap();
    for kind in [tar::EntryType::Symlink, tar::EntryType::Link] {
        let stream = link_only(kind, &secret.display().to_string());
        for target in ["copy", "secret"] {
            let to = place.path().join(target);
            let mode = UnpackMode::Copy { name: None };
            let refused = unpack(stream.as_slice(), &to, &mode, &mut |_| ());
            assert!(matches!(refused, Err(CopyError::Refused { .. })));
        }
    }
    assert!(!place.path().join("copy").exists());
    assert_eq!(fs::read_to_string(&secret).unwrap(), "kept");
}

#[test]
fn a_hostile_stream_writes_nothing_outside_its_destination() {
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("target");
    fs::create_dir(&target).unwrap();
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(3);
    header.set_mode(0o644);
    // Written directly, because the library's setters refuse such a name.
    header.as_old_mut().name[..10].copy_from_slice(b"../outside");
    header.set_cksum();
    builder.append(&header, &b"bad"[..]).unwrap();
    let stream = builder.into_inner().unwrap();
    let mut notes = Vec::new();
    unpack(stream.as_slice(), &target, &UnpackMode::Tar, &mut |note| {
        notes.push(note);
    })
    .unwrap();
    assert!(!place.path().join("outside").exists());
    assert!(notes[0].contains("outside"), "{notes:?}");
}

#[test]
fn a_stream_that_is_no_tar_archive_is_refused() {
    let target = tempfile::tempdir().unwrap();
    let refused = unpack(
        &vec![b'x'; 2048][..],
        target.path(),
        &UnpackMode::Tar,
        &mut |_| (),
    );
    assert!(matches!(refused, Err(CopyError::Stream(_))), "{refused:?}");
}

#[test]
fn an_existing_pipe_is_written_to() {
    let place = tempfile::tempdir().unwrap();
    let (from, pipe) = (place.path().join("from"), place.path().join("pipe"));
    fs::write(&from, "through the pipe").unwrap();
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || fs::read_to_string(pipe).unwrap()
    });
    copy(&from, &pipe, false).unwrap();
    assert_eq!(reader.join().unwrap(), "through the pipe");
    assert!(!fs::metadata(&pipe).unwrap().is_file());
}
