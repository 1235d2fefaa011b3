//! Entry points for fuzz targets, one for each parser of bytes from outside. Each panics if the
//! parser breaks a promise.

use std::path::{Component, Path};

use crate::{
    configuration::{KernelConfiguration, Requirements},
    elf,
    extract::{Lookup, copy_member, normalize},
    image::KernelImage,
    image_error::MAX_SIZE,
};

/// Parses an ELF file or a bzImage, and what is embedded in it.
pub fn kernel_image(bytes: &[u8]) {
    let Ok(image) = KernelImage::parse(bytes.to_vec()) else {
        return;
    };
    assert!(image.elf().len() as u64 <= MAX_SIZE.max(bytes.len() as u64));
    assert!(!image.release().is_empty() && !image.release().contains('/'));
    let _ = image.has_pvh();
    let _ = image.configuration();
    assert!(elf::check(image.elf()).is_ok());
}

/// Parses the text of a kernel's configuration.
pub fn configuration(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let configuration = KernelConfiguration::parse(text);
    let missing = configuration.missing(Requirements::default(), true);
    let without_modules = configuration.missing(Requirements::default(), false);
    assert!(missing.iter().all(|it| without_modules.contains(it)));
}

/// Looks for a kernel in a tar archive, plain or compressed, and extracts it.
pub fn archive(bytes: &[u8]) {
    let mut extracted = Vec::new();
    match copy_member(bytes, Path::new("boot/vmlinux"), &mut extracted) {
        Ok(Lookup::Copied) => assert!(extracted.len() as u64 <= MAX_SIZE),
        Ok(Lookup::Link(target)) => {
            assert_eq!(normalize(&target), target);
            let is_normal = |it: Component<'_>| matches!(it, Component::Normal(_));
            assert!(target.components().all(is_normal));
        }
        Ok(Lookup::NotFound { .. } | Lookup::NotAnArchive) | Err(_) => {}
    }
}
