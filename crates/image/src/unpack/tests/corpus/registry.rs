//! The test images, built by buildah (`make images`) and pulled from a registry.

use super::{
    disk::{Disk, Scratch, command, target, work_directory},
    listing::{Scope, ensure_same, list},
    umoci,
};
use crate::{ImageStore, Platform, PullOptions, Reference, test_registry::Registry};

const IMAGES: [&str; 5] = [
    "busybox:1",
    "busybox-plain:1",
    "debian-plain:12",
    "debian-systemd:12",
    "debian-sysvinit:12",
];

/// Size of a base image in bytes.
const SIZE: u64 = 512 << 30;

#[tokio::test]
#[ignore = "takes minutes and needs other programs; run by `make image-corpus`"]
async fn test_images_are_unpacked_as_umoci_unpacks_them() {
    let registry = Registry::start(&target().join("images/registry"));
    let directory = tempfile::tempdir_in(work_directory()).unwrap();
    let store = ImageStore::open(&directory.path().join("store")).unwrap();
    for name in IMAGES {
        let reference = format!("{}/{name}", registry.address());
        let parsed = Reference::parse(&reference, "docker.io").unwrap();
        let options = PullOptions::default();
        let platform = Platform::host();
        let pulled = store.pull_to_base(&parsed, &platform, &options, SIZE, &|_| {});
        let (_, base) = pulled.await.unwrap();
        let disk = Disk::open(base);
        let (Some(mounted), Some(scratch)) = (disk.mount(), Scratch::new()) else {
            return;
        };
        let layout = directory.path().join(name.replace(':', "-"));
        let layout = format!("{}:corpus", layout.display());
        let (from, to) = (format!("docker://{reference}"), format!("oci:{layout}"));
        command(
            "skopeo",
            &["copy", "--quiet", "--src-tls-verify=false", &from, &to],
        );
        umoci::unpack(&layout, scratch.path());
        let ours = list(mounted.path(), Scope::EVERYTHING);
        let theirs = list(&scratch.path().join("tree"), Scope::EVERYTHING);
        ensure_same(&ours, &theirs, name);
    }
}
