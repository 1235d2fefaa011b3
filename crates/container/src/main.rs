//! The program `container`: what people type, and the processes that it starts of itself.

use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args_os()
        .nth(1)
        .as_deref()
        .and_then(|role| role.to_str())
    {
        Some(container_api::SERVICE_ROLE) => container_service::service_main(),
        Some(container_runtime::RUNTIME_ROLE) => container_runtime::runtime_main(),
        Some(container_runtime::FILE_SHARE_ROLE) => container_runtime::file_share_main(),
        _ => container_cli::main(&container_service::build_id()),
    }
}
