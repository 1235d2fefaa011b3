//! Build steps that are more than one line.

use std::process::ExitCode;

use xtask::{demo, first_machine, guest, images, installation, registry};

const USAGE: &str = "\
Usage: cargo xtask STEP

  guest            fetch the kernel, build the agent, put both under target/guest
  kernel           build the kernel that is made for machines
  install PREFIX   copy the built program and the guest's files below PREFIX
  images [NAME …]  build the test images and put them into the test registry's storage
  registry PORT    serve the test images on 127.0.0.1:PORT until interrupted
  demo             record the README's session as docs/demo.cast and docs/demo.svg
  first-machine    make the machine `dev` from the Debian test image, and look inside
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
        ["demo"] => demo::record(),
        ["first-machine"] => first_machine::look_inside(),
        _ => Err(anyhow::anyhow!("{USAGE}")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            xtask::say(&format!("Error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
