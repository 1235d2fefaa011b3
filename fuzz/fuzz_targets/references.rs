//! Image references, as users and archives write them. What a reference prints is the same
//! reference.
#![no_main]

use container_image::Reference;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &str| {
    for default_registry in ["docker.io", "registry.example:5000"] {
        let Ok(reference) = Reference::parse(input, default_registry) else {
            continue;
        };
        let printed = reference.to_string();
        let again = Reference::parse(&printed, default_registry).expect(&printed);
        assert_eq!(again, reference, "{printed}");
        let _ = reference.short_name(default_registry);
    }
});
