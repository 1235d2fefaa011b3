//! What umoci makes of layers.

use std::{io::Write, path::Path};

use crate::disk::{Scratch, command, room};

/// Unpacks these layers with umoci; none if there is no place to.
pub fn unpacked(layers: &[Vec<u8>]) -> Option<Scratch> {
    let scratch = Scratch::new()?;
    let layout = tempfile::tempdir_in(room()).unwrap();
    let layout_path = layout.path().join("layout");
    let layout_path = layout_path.to_str().unwrap();
    command("umoci", &["init", "--layout", layout_path]);
    let image = format!("{layout_path}:corpus");
    command("umoci", &["new", "--image", &image]);
    for layer in layers {
        let mut file = tempfile::NamedTempFile::new_in(room()).unwrap();
        file.write_all(layer).unwrap();
        let path = file.path().to_str().unwrap();
        command("umoci", &["raw", "add-layer", "--image", &image, path]);
    }
    unpack(&image, scratch.path());
    Some(scratch)
}

/// Unpacks an image in an OCI layout into `root/tree`.
pub fn unpack(image: &str, root: &Path) {
    let tree = root.join("tree");
    let tree = tree.to_str().unwrap();
    command("umoci", &["raw", "unpack", "--image", image, tree]);
}
