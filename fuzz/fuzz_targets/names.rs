//! DNS messages, and the host's hosts and resolv.conf files.
#![no_main]

use container_network::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    fuzzing::dns_message(input);
    fuzzing::host_files(input);
});
