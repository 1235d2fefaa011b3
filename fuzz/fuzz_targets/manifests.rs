//! Manifests, indexes and image configurations.
#![no_main]

use container_image::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let _ = fuzzing::read_manifest(input);
    for layers in 0..3 {
        let _ = fuzzing::read_configuration(input, layers);
    }
});
