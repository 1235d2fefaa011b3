//! Declaration of a file's tests.

use end_to_end::Lab;

/// A test and its name.
pub(crate) type Test = (&'static str, fn(&Lab));

/// Declares the tests of a file.
///
/// The file's module must also be in `main`'s list, which determines the order of the tests; the
/// compiler warns of unused `TESTS` otherwise. A macro cannot declare the modules and the list in
/// one, because rustfmt does not find modules in macros.
macro_rules! tests {
    ($($test:ident),* $(,)?) => {
        pub(crate) const TESTS: &[crate::declare::Test] =
            &[$((concat!(module_path!(), "::", stringify!($test)), $test)),*];
    };
}
pub(crate) use tests;
