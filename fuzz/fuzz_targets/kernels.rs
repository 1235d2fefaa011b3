//! Kernel images (ELF and bzImage), kernel configurations, and archives that contain a kernel.
#![no_main]

use container_kernel::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    fuzzing::kernel_image(input);
    fuzzing::archive(input);
    fuzzing::configuration(input);
});
