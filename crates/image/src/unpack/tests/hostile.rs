//! Hostile archives: each is refused with an error that names the layer and the member, if there is
//! one, and no file is left.

use super::*;

/// Returns the error of unpacking this layer over a valid one.
async fn unpack_error(test: &TestStore, archive: Vec<u8>, compression: Compression) -> String {
    let fine = LayerBuilder::new().file("fine", "fine").bytes();
    let image = test.image(&[(fine, Compression::None), (archive, compression)]);
    image_error(test, &image).await
}

async fn image_error(test: &TestStore, image: &Image) -> String {
    let made = test.store.ensure_base(image, SIZE, &|_| {}).await;
    assert!(test.is_clean(), "a file was left");
    made.expect_err("the image was unpacked").to_string()
}

fn header(kind: EntryType, path: &str, size: u64) -> Vec<u8> {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_path(path).unwrap();
    header.set_mode(0o644);
    header.set_size(size);
    header.set_cksum();
    header.as_bytes().to_vec()
}

fn with_device(kind: EntryType, major: u32, minor: u32) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_path("device").unwrap();
    header.set_mode(0o644);
    header.set_size(0);
    header.set_device_major(major).unwrap();
    header.set_device_minor(minor).unwrap();
    header.set_cksum();
    header.as_bytes().to_vec()
}

/// Returns a sparse file of this size without any data.
fn hole(size: u64) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    builder
        .append_pax_extensions([
            ("GNU.sparse.map", &b""[..]),
            ("GNU.sparse.size", size.to_string().as_bytes()),
        ])
        .unwrap();
    let mut bytes = builder.into_inner().unwrap();
    bytes.truncate(bytes.len() - 1024);
    [bytes, header(EntryType::Regular, "hole", 0)].concat()
}

#[tokio::test]
async fn lying_and_ambiguous_archives_are_refused() {
    let test = TestStore::new();
    let two = || {
        LayerBuilder::new()
            .file("first", "first")
            .file("second", "second")
    };
    let zeroes = || vec![0; 512];
    let described = |count: usize| -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        for number in 0..count {
            let key = format!("SCHILY.xattr.user.{number}");
            builder
                .append_pax_extensions([(key.as_str(), &[b'x'; 5000][..])])
                .unwrap();
        }
        let mut bytes = builder.into_inner().unwrap();
        bytes.truncate(bytes.len() - 1024);
        [bytes, header(EntryType::Regular, "described", 0)].concat()
    };
    let xattrs = |count: usize| -> Vec<u8> {
        let keys: Vec<String> = (0..count)
            .map(|n| format!("SCHILY.xattr.user.{n}"))
            .collect();
        let mut builder = Builder::new(Vec::new());
        let records = keys.iter().map(|key| (key.as_str(), &b"x"[..]));
        builder.append_pax_extensions(records).unwrap();
        let mut bytes = builder.into_inner().unwrap();
        bytes.truncate(bytes.len() - 1024);
        [bytes, header(EntryType::Regular, "described", 0)].concat()
    };
    for (archive, expected) in [
        // Sizes.
        (
            header(EntryType::Regular, "liar", 1 << 40),
            "unpacks to more than",
        ),
        (header(EntryType::Regular, "liar", (1 << 33) - 1), "liar"),
        (hole(1 << 60), "file hole is too large: the limit is 16 TiB"),
        (
            hole(u64::MAX),
            "file hole is too large: the limit is 16 TiB",
        ),
        // Headers.
        (
            header(EntryType::XHeader, "pax", 1 << 32),
            "not supported (limit: 1 MiB)",
        ),
        (
            header(EntryType::GNULongName, "name", 1 << 32),
            "not supported (limit: 1 MiB)",
        ),
        (
            header(EntryType::XHeader, "pax", 1000),
            "it ends in the middle of a header",
        ),
        (described(300), "not supported (limit: 1 MiB)"),
        (xattrs(2000), "more than a thousand extended attributes"),
        (
            xattrs(900),
            "cannot store the extended attributes of described",
        ),
        // Blocks of zeroes.
        (
            [&two().bytes()[..1024], &zeroes(), &two().bytes()].concat(),
            "at or after first: data after a single block of zeroes",
        ),
        // Links.
        (
            LayerBuilder::new().hard_link("self", "self").bytes(),
            "hard link self: target self not found",
        ),
        (
            LayerBuilder::new().hard_link("l", "nowhere").bytes(),
            "hard link l: target nowhere not found",
        ),
        (
            LayerBuilder::new()
                .file("d/e/f", "")
                .hard_link("d", "d/e/f")
                .bytes(),
            "hard link d: target d/e/f not found or not a file",
        ),
        (
            LayerBuilder::new()
                .directory("d")
                .hard_link("l", "d")
                .bytes(),
            "hard link l: target d not found or not a file",
        ),
        (
            LayerBuilder::new()
                .symlink("a", "b/x")
                .symlink("b", "a/x")
                .file("a/y", "")
                .bytes(),
            "a/y: too many symbolic links",
        ),
        (
            LayerBuilder::new()
                .file("f", "")
                .file("f/below", "")
                .bytes(),
            "f/below: a component is not a directory",
        ),
        // The root itself.
        (LayerBuilder::new().file("..", "x").bytes(), "..: "),
        (LayerBuilder::new().symlink("./", "/etc").bytes(), "./: "),
        // Devices that Linux does not have.
        (
            with_device(EntryType::Char, 4096, 1),
            "invalid device number of device",
        ),
        (
            with_device(EntryType::Block, 1, 1 << 20),
            "invalid device number of device",
        ),
    ] {
        let error = unpack_error(&test, archive, Compression::None).await;
        assert!(error.contains("layer 2 of 2: "), "{error}");
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[tokio::test]
async fn broken_compression_is_refused() {
    let test = TestStore::new();
    let archive = LayerBuilder::new()
        .file("first", "first")
        .file("large", &"not the same twice? ".repeat(100_000))
        .bytes();
    for compression in [Compression::Gzip, Compression::Zstd] {
        let image = test.image(&[(archive.clone(), compression)]);
        let whole = fs::read(test.store.blob_path(&image.layers[0].blob.digest)).unwrap();
        let cut = whole[..whole.len() / 2].to_vec();
        let mut flipped = whole.clone();
        let middle = flipped.len() / 2;
        flipped[middle..middle + 16]
            .iter_mut()
            .for_each(|byte| *byte ^= 0x55);
        let plain = archive.clone();
        for (number, bytes) in [cut, flipped, plain, Vec::new()].into_iter().enumerate() {
            let blob = Descriptor {
                digest: Digest::compute(&bytes),
                media_type: String::new(),
                size: bytes.len() as u64,
            };
            test.store.write_blob(&blob, &bytes).unwrap();
            let mut image = image.clone();
            image.layers[0].blob = blob.clone();
            image.manifest.digest = blob.digest;
            let error = image_error(&test, &image).await;
            assert!(error.contains("layer 1 of 1: "), "{number}: {error}");
        }
    }
}

#[tokio::test]
async fn an_image_is_unpacked_within_its_limits() {
    let test = TestStore::new();
    let limits = Limits {
        most_bytes: 1 << 20,
        most_entries: 100,
    };
    let test = TestStore {
        store: test.store.clone().with_limits(limits),
        ..test
    };
    let bomb = LayerBuilder::new()
        .file("bomb", &"\0".repeat(2 << 20))
        .bytes();
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let error = unpack_error(&test, bomb.clone(), compression).await;
        let expected = "layer 2 of 2: the image unpacks to more than 1048576 bytes";
        assert!(error.contains(expected), "{error}");
    }
    // The size in a header is enough.
    let error = unpack_error(&test, bomb[..512].to_vec(), Compression::None).await;
    assert!(error.contains("more than 1048576 bytes"), "{error}");
    // Bytes after the archive's end count as well.
    let trailing = [LayerBuilder::new().file("x", "x").bytes(), vec![1; 2 << 20]].concat();
    let error = unpack_error(&test, trailing, Compression::Gzip).await;
    assert!(error.contains("more than 1048576 bytes"), "{error}");
    let many = (0..101).fold(LayerBuilder::new(), |archive, number| {
        archive.file(&format!("{number}"), "")
    });
    let error = unpack_error(&test, many.bytes(), Compression::None).await;
    assert!(error.contains("more than 100 entries"), "{error}");
    // The limits apply to all layers together.
    let half = LayerBuilder::new()
        .file("half", &"h".repeat(600 << 10))
        .bytes();
    let layers = [(half.clone(), Compression::None), (half, Compression::Gzip)];
    let error = image_error(&test, &test.image(&layers)).await;
    assert!(
        error.contains("layer 2 of 2: the image unpacks to more"),
        "{error}"
    );
}

#[tokio::test]
async fn the_last_member_for_a_path_wins() {
    let test = TestStore::new();
    let archive = LayerBuilder::new()
        .file("twice", "first")
        .symlink("twice", "/etc/passwd")
        .file("twice", "last")
        .directory("etc")
        .file("etc", "no directory now")
        .directory("etc")
        .file("etc/passwd", "inside")
        .file("lost+found", "a file where a directory should be")
        .bytes();
    let base = test.base(vec![archive]).await.unwrap();
    assert_eq!(content(&base, "/twice"), "last");
    assert_eq!(content(&base, "/etc/passwd"), "inside");
}
