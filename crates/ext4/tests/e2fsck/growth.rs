//! Growth of a written file system with `resize2fs`.

use std::{fs::File, io::Read, path::Path};

use crate::image::{Image, image, run};
use container_ext4::Metadata;

const GIB: u64 = 1 << 30;

fn filled(size: u64) -> Image {
    image(size, |writer| {
        for number in 0..3000 {
            let path = format!("d{}/file {number}", number % 7);
            let contents = vec![number as u8 | 1; 5000];
            writer
                .file(path.as_bytes(), &Metadata::file(0o644), &mut &contents[..])
                .unwrap();
        }
        let mut large = std::io::repeat(9).take(300 << 20);
        writer
            .file(b"large", &Metadata::file(0o644), &mut large)
            .unwrap();
    })
}

fn check_contents(image: &Image, size: u64) {
    image.check();
    let blocks = format!("Block count:              {}", size / 4096);
    let stats = image.debugfs("stats");
    assert!(stats.contains(&blocks), "{stats}");
    assert_eq!(image.contents("\"/d3/file 3\""), [3; 5000]);
    assert_eq!(image.contents("/large").len(), 300 << 20);
}

fn set_size(path: &Path, size: u64) {
    File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_len(size)
        .unwrap();
}

#[test]
fn unmounted_file_systems_grow() {
    for (before, after) in [(GIB, 20 * GIB), (512 * GIB, 1024 * GIB), (GIB / 4, 3 * GIB)] {
        let image = filled_or_small(before);
        set_size(&image.path, after);
        let (is_grown, output) = run("resize2fs", &["-f"], &image.path);
        assert!(is_grown, "{output}");
        // New descriptors go to the reserved blocks, so no inode table has to be moved.
        assert!(image.debugfs("stats").contains("resize_inode"));
        if before >= GIB {
            check_contents(&image, after);
        } else {
            image.check();
        }
    }
}

fn filled_or_small(size: u64) -> Image {
    if size >= GIB {
        filled(size)
    } else {
        image(size, |_| ())
    }
}
