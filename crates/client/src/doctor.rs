//! Checks of the host, by a process of this program in the role of the doctor.

use std::{env, io, process::Stdio};

use container_api::{DOCTOR_FIX, DOCTOR_ROLE, Diagnosis};
use tokio::process::Command;

use crate::service_environment::service_environment;

/// The host cannot be checked.
#[derive(Debug, thiserror::Error)]
pub enum DoctorError {
    /// The process cannot be started.
    #[error("cannot start the process that checks the host: {0}")]
    Start(io::Error),
    /// The process ended before it printed its result.
    #[error("the process that checks the host failed: {0}")]
    Output(serde_json::Error),
}

/// Checks everything that machines need on this host, and removes leftovers if `fixes`. No service
/// is needed or started.
///
/// # Errors
/// [`DoctorError`] if the process that does it fails; problems of the host are no error.
pub async fn diagnose(fixes: bool) -> Result<Diagnosis, DoctorError> {
    let program = env::current_exe().map_err(DoctorError::Start)?;
    let mut command = Command::new(program);
    command.arg(DOCTOR_ROLE);
    if fixes {
        command.arg(DOCTOR_FIX);
    }
    // The service has the same, so the checks find what it finds.
    command
        .env_clear()
        .envs(service_environment())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .kill_on_drop(true);
    let output = command.output().await.map_err(DoctorError::Start)?;
    serde_json::from_slice(&output.stdout).map_err(DoctorError::Output)
}
