//! Image archives (OCI layouts and those of `docker save`), as `container image load` reads them.
#![no_main]

use container_fuzz::with_checksums;
use container_image::{ImageStore, LoadOptions};
use futures::executor::block_on;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(directory) = tempfile::tempdir_in("/dev/shm") else {
        return;
    };
    let store = ImageStore::open(directory.path()).unwrap();
    let shared = block_on(store.lock_shared()).unwrap();
    let options = LoadOptions {
        default_registry: "docker.io".to_owned(),
        most_bytes: 1 << 20,
        name_override: None,
    };
    let compressed = store.load(&shared, input, &options, &|_| ());
    let plain = store.load(&shared, &with_checksums(input)[..], &options, &|_| ());
    for loaded in [compressed, plain].into_iter().flatten() {
        assert!(!loaded.is_empty());
    }
});
