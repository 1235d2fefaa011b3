use std::{fs, process::Command};

use super::*;

/// Reads all members with their contents.
fn members(archive: &[u8]) -> Result<Vec<(Member, Vec<u8>)>, TarError> {
    let mut archive = TarReader::new(archive);
    let mut members = Vec::new();
    while let Some(member) = archive.next()? {
        let mut content = Vec::new();
        archive.contents().read_to_end(&mut content)?;
        members.push((member, content));
    }
    archive.drain()?;
    Ok(members)
}

fn header(kind: ::tar::EntryType, path: &str, size: u64) -> ::tar::Header {
    let mut header = ::tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.set_mode(0o100_640);
    header.set_uid(1);
    header.set_gid(2);
    header.set_mtime(3);
    header.set_size(size);
    header.set_cksum();
    header
}

fn file(path: &str, content: &[u8]) -> Vec<u8> {
    let header = header(::tar::EntryType::Regular, path, content.len() as u64);
    padded(header.as_bytes(), content)
}

fn padded(header: &[u8], content: &[u8]) -> Vec<u8> {
    let mut bytes = [header, content].concat();
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

fn pax(records: &[u8]) -> Vec<u8> {
    let header = header(::tar::EntryType::XHeader, "pax", records.len() as u64);
    padded(header.as_bytes(), records)
}

fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let length = (rest + 1..).find(|length| rest + length.to_string().len() == *length);
    [
        format!("{} {key}=", length.unwrap()).as_bytes(),
        value,
        b"\n",
    ]
    .concat()
}

const END: [u8; 1024] = [0; 1024];

#[test]
fn a_plain_file_is_read() {
    let archive = [file("a/b", b"hello").as_slice(), &END, b"trailing bytes"].concat();
    let read = members(&archive).unwrap();
    let (member, content) = &read[0];
    assert_eq!((read.len(), content.as_slice()), (1, b"hello".as_slice()));
    assert_eq!(member.path, b"a/b");
    assert_eq!(member.kind, MemberKind::File(5));
    assert_eq!((member.mode, member.uid, member.gid), (0o640, 1, 2));
    assert_eq!((member.mtime.seconds, member.mtime.nanoseconds), (3, 0));
}

#[test]
fn extended_headers_override_plain_ones() {
    let capability = b"\x01\0\0\x02\n=\n\0\xff";
    let long = "d/".repeat(200) + "n\u{e4}me";
    let records = [
        record("path", long.as_bytes()),
        record("uid", b"4000000000"),
        record("mtime", b"-0.5"),
        record("size", b"7"),
        record("SCHILY.xattr.security.capability", capability),
        record("comment", b"x"),
    ];
    let lie = header(::tar::EntryType::Regular, "short", 512);
    let archive = [
        pax(&records.concat()),
        padded(lie.as_bytes(), b"seven b"),
        file("next", b""),
    ];
    let read = members(&archive.concat()).unwrap();
    let (member, content) = &read[0];
    assert_eq!(content, b"seven b");
    assert_eq!(member.path, long.as_bytes());
    assert_eq!(member.uid, 4_000_000_000);
    assert_eq!(
        (member.mtime.seconds, member.mtime.nanoseconds),
        (-1, 500_000_000)
    );
    assert_eq!(
        member.xattrs,
        [(b"security.capability".to_vec(), capability.to_vec())]
    );
    assert_eq!(read[1].0.path, b"next");
    assert!(read[1].0.xattrs.is_empty());
}

#[test]
fn archives_of_gnu_tar_in_every_format_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let tree = directory.path().join("tree");
    let deep = tree
        .join("long-directory-name-".repeat(6))
        .join("x".repeat(200));
    fs::create_dir_all(deep.parent().unwrap()).unwrap();
    fs::write(&deep, "deep").unwrap();
    fs::hard_link(&deep, tree.join("link")).unwrap();
    std::os::unix::fs::symlink("y".repeat(150), tree.join("symlink")).unwrap();
    for format in ["gnu", "pax", "ustar", "v7", "oldgnu"] {
        // The older formats cannot store these names.
        let members_of = if matches!(format, "ustar" | "v7") {
            "symlink-short"
        } else {
            "."
        };
        let short = tree.join("symlink-short");
        let _ = fs::remove_file(&short);
        std::os::unix::fs::symlink("z", &short).unwrap();
        let output = Command::new("tar")
            .args(["--create", "--format", format, "--directory"])
            .arg(&tree)
            .arg(members_of)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let read = members(&output.stdout).unwrap();
        let find = |end: &str| {
            let found = read
                .iter()
                .find(|(member, _)| member.path.ends_with(end.as_bytes()));
            found.unwrap_or_else(|| panic!("{format}: {end} not found"))
        };
        assert_eq!(
            find("symlink-short").0.kind,
            MemberKind::Symlink(b"z".to_vec())
        );
        if members_of == "." {
            let symlink = &find("/symlink").0;
            assert_eq!(
                symlink.kind,
                MemberKind::Symlink("y".repeat(150).into_bytes())
            );
            let (linked, contents): (Vec<_>, Vec<_>) = [find("xxx"), find("/link")]
                .map(|(member, content)| (member.kind.clone(), content.clone()))
                .into_iter()
                .unzip();
            let is_link = |kind: &MemberKind| matches!(kind, MemberKind::HardLink(_));
            assert_eq!(
                linked.iter().filter(|kind| is_link(kind)).count(),
                1,
                "{format}"
            );
            assert_eq!(contents.concat(), b"deep", "{format}");
        }
    }
}

#[test]
fn holes_of_every_sparse_format_are_zeroes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sparse");
    let mut expected = vec![0; 3 << 20];
    // More segments than fit into a header, and a hole at the end.
    for segment in 0..40 {
        let at = segment * 65536;
        expected[at..at + 5000].fill(segment as u8 + 1);
    }
    {
        let sparse = fs::File::create(&path).unwrap();
        sparse.set_len(expected.len() as u64).unwrap();
        for segment in 0..40 {
            let at = segment * 65536;
            let part = &expected[at..at + 5000];
            std::os::unix::fs::FileExt::write_all_at(&sparse, part, at as u64).unwrap();
        }
    }
    let formats: [&[&str]; 4] = [
        &["--format=gnu"],
        &["--format=pax", "--sparse-version=0.0"],
        &["--format=pax", "--sparse-version=0.1"],
        &["--format=pax", "--sparse-version=1.0"],
    ];
    for format in formats {
        let output = Command::new("tar")
            .args(["--create", "--sparse"])
            .args(format)
            .arg("--directory")
            .arg(directory.path())
            .arg("sparse")
            .output()
            .unwrap();
        assert!(
            output.stdout.len() < 1 << 20,
            "{format:?}: tar wrote the holes"
        );
        let read = members(&output.stdout).unwrap();
        assert_eq!(read[0].0.path, b"sparse", "{format:?}");
        assert_eq!(read[0].0.kind, MemberKind::File(3 << 20), "{format:?}");
        assert!(read[0].1 == expected, "{format:?}: the contents differ");
    }
}

#[test]
fn unread_contents_are_skipped() {
    let bytes = [file("a", &[1; 700]), file("b", b"bee"), END.to_vec()].concat();
    let mut archive = TarReader::new(bytes.as_slice());
    assert_eq!(archive.next().unwrap().unwrap().path, b"a");
    let mut some = [0; 10];
    archive.contents().read_exact(&mut some).unwrap();
    assert_eq!(archive.next().unwrap().unwrap().path, b"b");
    assert_eq!(archive.next().unwrap(), None);
    assert_eq!(archive.next().unwrap(), None);
}

#[test]
fn hostile_archives_are_refused() {
    let huge = header(::tar::EntryType::GNULongName, "x", 1 << 40);
    let huge_pax = header(::tar::EntryType::XHeader, "x", u64::MAX >> 2);
    let unknown = header(::tar::EntryType::new(b'Z'), "x", 0);
    let lying = header(::tar::EntryType::Regular, "x", 1 << 40);
    let mut broken_sum = file("x", b"");
    broken_sum[0] ^= 1;
    let sparse = |records: &[(&str, &str)]| {
        let records: Vec<_> = records
            .iter()
            .map(|(key, value)| record(key, value.as_bytes()))
            .collect();
        [pax(&records.concat()), file("x", b"abc")].concat()
    };
    let archives = [
        huge.as_bytes().to_vec(),
        huge_pax.as_bytes().to_vec(),
        unknown.as_bytes().to_vec(),
        padded(lying.as_bytes(), b"short"),
        broken_sum,
        pax(&record("path", b"nothing follows")),
        file("x", b"abc")[..514].to_vec(),
        [7; 100].to_vec(),
        [7; 512].to_vec(),
        sparse(&[("GNU.sparse.map", "0,9"), ("GNU.sparse.size", "5")]),
        sparse(&[("GNU.sparse.map", "0,3,1"), ("GNU.sparse.size", "5")]),
        sparse(&[("GNU.sparse.map", "0,3")]),
        sparse(&[("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0")]),
        sparse(&[("GNU.sparse.major", "9"), ("GNU.sparse.minor", "0")]),
        [
            pax(&[
                record("GNU.sparse.major", b"1"),
                record("GNU.sparse.minor", b"0"),
                record("GNU.sparse.realsize", b"5"),
            ]
            .concat()),
            file(
                "x",
                &[b"99999999999999999999\n", [b'1'; 600].as_slice()].concat(),
            ),
        ]
        .concat(),
    ];
    for (index, archive) in archives.iter().enumerate() {
        assert!(members(archive).is_err(), "archive {index} was accepted");
    }
}

#[test]
fn mutated_archives_never_panic() {
    // A xorshift generator with a fixed seed gives the same bytes in every run.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let whole = [
        pax(&record("path", b"name")),
        file("a", &[1; 700]),
        pax(&[
            record("GNU.sparse.map", b"0,3"),
            record("GNU.sparse.size", b"9"),
        ]
        .concat()),
        file("s", b"abc"),
        END.to_vec(),
    ]
    .concat();
    let mut accepted = 0;
    for _ in 0..20_000 {
        let mut bytes = whole.clone();
        for _ in 0..=random() % 3 {
            let at = random() as usize % bytes.len();
            bytes[at] = random() as u8;
            // With a valid checksum, so that the mutation reaches the parser.
            let block = at / BLOCK * BLOCK;
            let header = ::tar::Header::from_byte_slice(&bytes[block..block + BLOCK]);
            let mut header = header.clone();
            header.set_cksum();
            bytes[block + 148..block + 156].copy_from_slice(&header.as_old().cksum);
        }
        accepted += u32::from(members(&bytes).is_ok());
    }
    assert!(accepted > 0);
}
