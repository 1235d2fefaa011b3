//! The program `container`: what people type, and the processes that it starts of itself.

use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some(container_runtime::RUNTIME_ROLE) => container_runtime::runtime_main(),
        Some(container_runtime::FILE_SHARE_ROLE) => container_runtime::file_share_main(),
        _ => ExitCode::FAILURE,
    }
}
