//! The command line of the development tasks.

use std::process::ExitCode;

use xtask::{check, demo, first_machine, guest, images, installation, progress, registry};

const USAGE: &str = "\
Usage: cargo xtask TASK

  guest            build the agent, and fetch Debian's kernel and the interpreters
  kernel           build the kernel for machines from guest/patches and kernel.config
  install PREFIX   install the built program and the guest's files under PREFIX
  images [NAME …]  build test images and push them to the test registry (default: all)
  registry PORT    serve the test images on 127.0.0.1:PORT until interrupted
  check            check prose, error types and imports (part of `make check`)
  demo             record the README's session as docs/demo.cast and docs/demo.svg
  first-machine    create the machine `dev` from the Debian test image, and run commands in it
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments[..] {
        ["guest"] => guest::build(),
        ["kernel"] => guest::own_kernel::build(),
        ["install", prefix] => installation::install(prefix.as_ref()),
        ["images", ref names @ ..] => images::build(names),
        ["registry", port] => registry::serve(port),
        ["check"] => check::run(),
        ["demo"] => demo::record(),
        ["first-machine"] => first_machine::demonstrate(),
        _ => Err(anyhow::anyhow!("{USAGE}")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            progress::print(&format!("Error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
