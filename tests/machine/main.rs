//! End-to-end tests: what a person does with machines, with real images, a real registry and
//! real virtual machines. `make test` runs them; the program and the images must be built.
#![allow(clippy::unwrap_used, clippy::panic)]

mod at_home;
mod commands;
mod first_use;
mod inits;
mod network;
mod output;
mod refusals;
mod stopping;
mod streams;
mod terminals;

use std::{process::ExitCode, sync::Arc};

use end_to_end::Lab;
use libtest_mimic::{Arguments, Trial};

/// A test by its name.
type Test = (&'static str, fn(&Lab));

/// Names the functions as a file's tests.
macro_rules! tests {
    ($($test:ident),* $(,)?) => {
        pub const TESTS: &[crate::Test] =
            &[$((concat!(module_path!(), "::", stringify!($test)), $test)),*];
    };
}
pub(crate) use tests;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // More machines at once than processors only makes all of them slow.
    arguments.test_threads.get_or_insert(2);
    let lab = Arc::new(Lab::default());
    let files = [
        stopping::TESTS,
        inits::TESTS,
        first_use::TESTS,
        commands::TESTS,
        streams::TESTS,
        terminals::TESTS,
        at_home::TESTS,
        network::TESTS,
        output::TESTS,
        refusals::TESTS,
    ];
    let trials = files.into_iter().flatten().map(|(name, test)| {
        let lab = Arc::clone(&lab);
        let test = move || {
            test(&lab);
            Ok(())
        };
        Trial::test(name.trim_start_matches("machine::"), test)
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}
