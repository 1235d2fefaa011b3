//! Checks of everything that machines need on the host. They run in a process of their own and need
//! no running service, because they are for users whose service does not work.
//!
//! | module | checks |
//! |---|---|
//! | `engine`, `kvm` | engine, accelerator, kernel and guest files |
//! | `resources` | disk space, memory, limits |
//! | `programs` | the service, machines |
//! | `leftovers` | files that crashes have left behind |
//! | `session` | what a logout ends |

mod engine;
mod kvm;
mod leftovers;
mod programs;
mod resources;
mod session;

use std::{env, io, process::ExitCode};

use container_api::{Check, DOCTOR_FIX, Diagnosis};
use container_machine::Directories;

use crate::configuration::Configuration;

/// Runs the role [`DOCTOR_ROLE`](container_api::DOCTOR_ROLE): checks the host and prints the
/// [`Diagnosis`] as JSON. With [`DOCTOR_FIX`] as second argument, leftovers are removed.
pub fn doctor_main() -> ExitCode {
    let fixes = env::args_os().nth(2).is_some_and(|word| word == DOCTOR_FIX);
    let events = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let diagnosis = match events {
        Ok(events) => events.block_on(diagnose(fixes)),
        Err(error) => Diagnosis {
            checks: vec![Check::problem(
                "event-loop",
                format!("cannot be started: {error}"),
            )],
        },
    };
    match serde_json::to_writer(io::stdout().lock(), &diagnosis) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Checks the host, and removes leftovers if `fixes`.
async fn diagnose(fixes: bool) -> Diagnosis {
    let directories = match Directories::from_environment() {
        Ok(directories) => directories,
        Err(error) => {
            // Everything else depends on them.
            let check = Check::problem("directories", error.to_string());
            return Diagnosis {
                checks: vec![check],
            };
        }
    };
    let (configuration, about_configuration) = read_configuration(&directories);
    let mut checks = vec![
        engine::engine(&configuration.engine),
        engine::accelerator(&configuration.engine),
        engine::confinement(&configuration.engine),
        engine::kernel(&directories),
        engine::guest_files(),
        about_configuration,
        resources::directories(&directories),
        resources::disk_space(&directories, configuration.machine.free_space),
        resources::memory(),
        resources::open_files(),
        resources::file_events(),
        programs::service(&directories),
    ];
    checks.extend(programs::machines(&directories).await);
    checks.push(leftovers::check(&directories, fixes));
    checks.push(session::logout().await);
    Diagnosis { checks }
}

/// Returns the configuration, or the defaults if it cannot be used.
fn read_configuration(directories: &Directories) -> (Configuration, Check) {
    let name = "configuration";
    let read = Configuration::read(&directories.config);
    let checked = read.and_then(|read| read.check().map(|()| read));
    match checked {
        Ok(read) => {
            let file = directories.config.join("config.toml");
            let message = if file.exists() {
                format!("{} is valid", file.display())
            } else {
                "all settings have their defaults".to_owned()
            };
            (read, Check::ok(name, message))
        }
        Err(error) => {
            let fix = "correct the file (docs/configuration.md)";
            let check = Check::problem(name, error.to_string()).with_fix(fix);
            (Configuration::default(), check)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use container_api::CheckStatus;

    use super::*;

    #[test]
    fn an_invalid_configuration_is_a_problem() {
        let directory = tempfile::tempdir().unwrap();
        let directories = Directories {
            data: directory.path().to_owned(),
            config: directory.path().to_owned(),
            runtime: directory.path().to_owned(),
        };
        let (_, check) = read_configuration(&directories);
        assert_eq!(check.status, CheckStatus::Ok);
        fs::write(
            directory.path().join("config.toml"),
            "[machine]\ncpuz = 1\n",
        )
        .unwrap();
        let (configuration, check) = read_configuration(&directories);
        assert_eq!(configuration, Configuration::default());
        assert_eq!(check.status, CheckStatus::Problem);
        assert!(check.message.contains("line 2"), "{}", check.message);
    }
}
