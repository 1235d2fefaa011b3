//! The program `container`, one binary with six roles.
//!
//! The first argument selects the role. The command line starts the service, the service starts a
//! runtime process for each running machine, and a runtime starts a file-share process for its
//! machine and, sometimes, a process that makes a template for later starts. `container system
//! doctor` starts one that checks the host. Any other argument is for the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args_os()
        .nth(1)
        .as_deref()
        .and_then(|role| role.to_str())
    {
        Some(container_api::SERVICE_ROLE) => container_service::service_main(),
        Some(container_api::DOCTOR_ROLE) => container_service::doctor_main(),
        Some(container_runtime::RUNTIME_ROLE) => container_runtime::runtime_main(),
        Some(container_runtime::FILE_SHARE_ROLE) => container_runtime::file_share_main(),
        Some(container_runtime::TEMPLATE_ROLE) => container_runtime::template_main(),
        _ => container_cli::main(&container_service::build_id()),
    }
}
