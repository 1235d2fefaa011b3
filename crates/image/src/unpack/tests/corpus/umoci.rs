//! Unpacking with umoci, as a reference.

use std::{io::Write, path::Path};

use super::disk::{Scratch, command, work_directory};

/// Unpacks layers into a scratch file system; `None` when this process cannot mount.
pub(crate) fn unpack_layers(layers: &[Vec<u8>]) -> Option<Scratch> {
    let scratch = Scratch::new()?;
    let layout = tempfile::tempdir_in(work_directory()).unwrap();
    let layout_path = layout.path().join("layout");
    let layout_path = layout_path.to_str().unwrap();
    command("umoci", &["init", "--layout", layout_path]);
    let image = format!("{layout_path}:corpus");
    command("umoci", &["new", "--image", &image]);
    for layer in layers {
        let mut file = tempfile::NamedTempFile::new_in(work_directory()).unwrap();
        file.write_all(layer).unwrap();
        let path = file.path().to_str().unwrap();
        command("umoci", &["raw", "add-layer", "--image", &image, path]);
    }
    unpack(&image, scratch.path());
    Some(scratch)
}

/// Unpacks an image of an OCI layout into `root/tree`.
pub(crate) fn unpack(image: &str, root: &Path) {
    let tree = root.join("tree");
    let tree = tree.to_str().unwrap();
    command("umoci", &["raw", "unpack", "--image", image, tree]);
}
