//! Ethernet frames of the guest, and IP packets of the guest and of other machines.
#![no_main]

use container_network::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    fuzzing::frame(input);
    fuzzing::packet(input);
});
