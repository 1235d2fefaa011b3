//! Credential files of docker and podman.
#![no_main]

use container_image::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| fuzzing::read_credentials(input));
