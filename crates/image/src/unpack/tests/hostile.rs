//! Archives by people who mean harm: each gives one error that names the layer and, where there
//! is one, the entry, and nothing is left.

use super::*;

/// The error of an image with this layer over one that is fine.
async fn refused(bench: &Bench, archive: Vec<u8>, compression: Compression) -> String {
    let fine = Archive::new().file("fine", "fine").bytes();
    let image = bench.image(&[(fine, Compression::None), (archive, compression)]);
    refused_image(bench, &image).await
}

async fn refused_image(bench: &Bench, image: &Image) -> String {
    let made = bench.store.base_of_size(image, SIZE, &|_| {}).await;
    assert!(bench.is_clean(), "something was left");
    made.expect_err("it was taken").to_string()
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

/// A file of that size that is a hole as a whole.
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
async fn lies_and_tricks_are_refused() {
    let bench = Bench::new();
    let two = || {
        Archive::new()
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
        (hole(1 << 60), "hole: a file can have 16 TiB"),
        (hole(u64::MAX), "hole: a file can have 16 TiB"),
        // Headers.
        (
            header(EntryType::XHeader, "pax", 1 << 32),
            "no honest archive",
        ),
        (
            header(EntryType::GNULongName, "name", 1 << 32),
            "no honest archive",
        ),
        (
            header(EntryType::XHeader, "pax", 1000),
            "it ends in the middle of a header",
        ),
        (described(300), "no honest archive needs"),
        (xattrs(2000), "more than a thousand extended attributes"),
        (
            xattrs(900),
            "described: its extended attributes cannot be kept",
        ),
        // Blocks of zeroes.
        (
            [&two().bytes()[..1024], &zeroes(), &two().bytes()].concat(),
            "at or behind first: something stands behind a single block of zeroes",
        ),
        // Links.
        (
            Archive::new().hard_link("self", "self").bytes(),
            "self: a hard link to self",
        ),
        (
            Archive::new().hard_link("l", "nowhere").bytes(),
            "l: a hard link to nowhere",
        ),
        (
            Archive::new()
                .file("d/e/f", "")
                .hard_link("d", "d/e/f")
                .bytes(),
            "d: a hard link to d/e/f, which is not a file",
        ),
        (
            Archive::new().directory("d").hard_link("l", "d").bytes(),
            "l: a hard link to d, which is not a file",
        ),
        (
            Archive::new()
                .symlink("a", "b/x")
                .symlink("b", "a/x")
                .file("a/y", "")
                .bytes(),
            "a/y: it leads through too many symbolic links",
        ),
        (
            Archive::new().file("f", "").file("f/below", "").bytes(),
            "f/below: it leads through something that is not a directory",
        ),
        // The root itself.
        (Archive::new().file("..", "x").bytes(), "..: "),
        (Archive::new().symlink("./", "/etc").bytes(), "./: "),
        // Devices that Linux does not have.
        (
            with_device(EntryType::Char, 4096, 1),
            "device: a device has",
        ),
        (
            with_device(EntryType::Block, 1, 1 << 20),
            "device: a device has",
        ),
    ] {
        let error = refused(&bench, archive, Compression::None).await;
        assert!(error.contains("layer 2 of 2: "), "{error}");
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[tokio::test]
async fn broken_compression_is_refused() {
    let bench = Bench::new();
    let archive = Archive::new()
        .file("first", "first")
        .file("large", &"not the same twice? ".repeat(100_000))
        .bytes();
    for compression in [Compression::Gzip, Compression::Zstd] {
        let image = bench.image(&[(archive.clone(), compression)]);
        let whole = fs::read(bench.store.blob_path(&image.layers[0].blob.digest)).unwrap();
        let cut = whole[..whole.len() / 2].to_vec();
        let mut flipped = whole.clone();
        let middle = flipped.len() / 2;
        flipped[middle..middle + 16]
            .iter_mut()
            .for_each(|byte| *byte ^= 0x55);
        let plain = archive.clone();
        for (number, bytes) in [cut, flipped, plain, Vec::new()].into_iter().enumerate() {
            let blob = Descriptor {
                digest: Digest::of(&bytes),
                media_type: String::new(),
                size: bytes.len() as u64,
            };
            bench.store.keep(&blob, &bytes).unwrap();
            let mut image = image.clone();
            image.layers[0].blob = blob.clone();
            image.manifest.digest = blob.digest;
            let error = refused_image(&bench, &image).await;
            assert!(error.contains("layer 1 of 1: "), "{number}: {error}");
        }
    }
}

#[tokio::test]
async fn an_image_is_unpacked_within_its_limits() {
    let bench = Bench::new();
    let limits = Limits {
        most_bytes: 1 << 20,
        most_entries: 100,
    };
    let bench = Bench {
        store: bench.store.clone().with_limits(limits),
        ..bench
    };
    let bomb = Archive::new().file("bomb", &"\0".repeat(2 << 20)).bytes();
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let error = refused(&bench, bomb.clone(), compression).await;
        let expected = "layer 2 of 2: the image unpacks to more than 1048576 bytes";
        assert!(error.contains(expected), "{error}");
    }
    // What a header claims is enough.
    let error = refused(&bench, bomb[..512].to_vec(), Compression::None).await;
    assert!(error.contains("more than 1048576 bytes"), "{error}");
    // What stands behind the archive's end counts as well.
    let trailing = [Archive::new().file("x", "x").bytes(), vec![1; 2 << 20]].concat();
    let error = refused(&bench, trailing, Compression::Gzip).await;
    assert!(error.contains("more than 1048576 bytes"), "{error}");
    let many = (0..101).fold(Archive::new(), |archive, number| {
        archive.file(&format!("{number}"), "")
    });
    let error = refused(&bench, many.bytes(), Compression::None).await;
    assert!(error.contains("more than 100 entries"), "{error}");
    // The limits are for all layers together.
    let half = Archive::new().file("half", &"h".repeat(600 << 10)).bytes();
    let layers = [(half.clone(), Compression::None), (half, Compression::Gzip)];
    let error = refused_image(&bench, &bench.image(&layers)).await;
    assert!(
        error.contains("layer 2 of 2: the image unpacks to more"),
        "{error}"
    );
}

#[tokio::test]
async fn the_last_of_two_headers_for_one_file_counts() {
    let bench = Bench::new();
    let archive = Archive::new()
        .file("twice", "first")
        .symlink("twice", "/etc/passwd")
        .file("twice", "last")
        .directory("etc")
        .file("etc", "no directory now")
        .directory("etc")
        .file("etc/passwd", "inside")
        .file("lost+found", "a file where a directory should be")
        .bytes();
    let base = bench.base(vec![archive]).await.unwrap();
    assert_eq!(content(&base, "/twice"), "last");
    assert_eq!(content(&base, "/etc/passwd"), "inside");
}
