//! Bodies and headers of registries' responses, and the machine settings that they lead to.
#![no_main]

use container_image::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    fuzzing::read_body(input);
    fuzzing::read_settings(input);
    if let Ok(header) = std::str::from_utf8(input) {
        fuzzing::read_header(header);
    }
});
