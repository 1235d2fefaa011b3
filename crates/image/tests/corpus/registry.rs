//! Images that buildah made, as the test registry serves them.

use container_image::{DEFAULT_SIZE, ImageStore, Platform, PullOptions, Reference};

use crate::{
    disk::{Disk, Scratch, command, room},
    listing::{Scope, ensure_same, list},
    truth,
};

const IMAGES: [&str; 5] = [
    "busybox:1",
    "busybox-plain:1",
    "debian-plain:12",
    "debian-systemd:12",
    "debian-sysvinit:12",
];

#[tokio::test]
#[ignore = "minutes, and tools of others: `make image-corpus` runs it"]
async fn the_test_images_are_what_umoci_unpacks() {
    let registry = xtask::registry::Registry::start(&xtask::registry::storage()).unwrap();
    let directory = tempfile::tempdir_in(room()).unwrap();
    let store = ImageStore::open(&directory.path().join("store")).unwrap();
    for name in IMAGES {
        let reference = format!("{}/{name}", registry.address());
        let parsed = Reference::parse(&reference, "docker.io").unwrap();
        let options = PullOptions::default();
        let platform = Platform::host();
        let pulled = store.pull_to_base(&parsed, &platform, &options, DEFAULT_SIZE, &|_| {});
        let (_, base) = pulled.await.unwrap();
        let disk = Disk::at(base);
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
        truth::unpack(&layout, scratch.path());
        let ours = list(mounted.path(), Scope::EVERYTHING);
        let theirs = list(&scratch.path().join("tree"), Scope::EVERYTHING);
        ensure_same(&ours, &theirs, name);
    }
}
