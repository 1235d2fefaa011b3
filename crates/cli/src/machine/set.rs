//! `container machine set`

use std::path::PathBuf;

use clap::Args;
use container_api::BootChange;
use container_client::Client;
use container_machine::MachineId;
use container_protocol::PublishedPorts;

use super::one_or_default;
use crate::{failure::Failure, output, values};

/// Change a machine: published ports at once, all else from its next boot on.
///
/// The keys are cpus, memory (2G, 4096M), disk (20G, 1T; a disk only grows), home-mount (rw, ro,
/// none), publish ([ADDRESS:]PORT:MACHINE_PORT[/udp], ports or ranges, all of them with commas between;
/// empty for none; at once if the machine runs), virtualization (true, false), kernel (a path; empty for
/// the default one) and kernel-args (parameters for the kernel with spaces between; empty for none). If
/// one of them is wrong nothing is changed.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container machine set -n dev cpus=2 memory=2G
  container machine set home-mount=ro
  container machine set -n dev disk=1T
  container machine set -n dev publish=8080:80,0.0.0.0:5353:53/udp
  container machine set -n dev kernel= kernel-args='quiet init_on_alloc=1'")]
pub struct Set {
    /// The machine; the default one where it is left out.
    #[arg(short, long)]
    name: Option<MachineId>,

    /// What to change: cpus, memory, disk, home-mount, publish, virtualization, kernel, kernel-args.
    #[arg(required = true, value_name = "KEY=VALUE")]
    settings: Vec<String>,
}

impl Set {
    /// Changes all of it or nothing, and prints the id.
    pub async fn carry_out(self, client: &Client) -> Result<(), Failure> {
        let change = change(&self.settings)?;
        let id = one_or_default(client, self.name).await?;
        let changed = client.set(&id, &change).await?;
        for problem in changed.problems {
            output::note(&problem);
        }
        if changed.running {
            output::note("The change takes effect when the machine is stopped and started again.");
        }
        output::line(id)
    }
}

fn change(settings: &[String]) -> Result<BootChange, Failure> {
    let mut change = BootChange::default();
    for setting in settings {
        let malformed = || {
            Failure::new(format!(
                "{setting:?} is not of the form KEY=VALUE; a machine is named with -n"
            ))
        };
        let (key, value) = setting.split_once('=').ok_or_else(malformed)?;
        let invalid = |reason: String| Failure::new(format!("{key}: {reason}"));
        match key {
            "cpus" => {
                change.cpus = Some(values::cpus(value).map_err(invalid)?);
            }
            "memory" => {
                change.memory = Some(value.parse().map_err(|error| invalid(format!("{error}")))?)
            }
            "disk" => {
                change.disk_capacity =
                    Some(value.parse().map_err(|error| invalid(format!("{error}")))?)
            }
            "home-mount" => {
                change.home_mount =
                    Some(value.parse().map_err(|error| invalid(format!("{error}")))?)
            }
            "publish" => {
                let words = value.split(',').filter(|word| !word.is_empty());
                let ports: Result<Vec<PublishedPorts>, _> = words.map(str::parse).collect();
                let ports = ports.map_err(|error| invalid(error.to_string()))?;
                change.publish = Some(ports.into_iter().flat_map(|it| it.0).collect());
            }
            "virtualization" => {
                let on = value
                    .parse()
                    .map_err(|_| invalid(format!("{value:?} is neither true nor false")))?;
                change.virtualization = Some(on);
            }
            "kernel" if value.is_empty() => change.kernel = Some(PathBuf::new()),
            "kernel" => change.kernel = Some(std::path::absolute(value)?),
            "kernel-args" => change.kernel_args = Some(value.parse()?),
            unknown => {
                return Err(Failure::new(format!(
                    "there is no setting {unknown:?}: there are cpus, memory, disk, home-mount, publish, virtualization, kernel and kernel-args"
                )));
            }
        }
    }
    Ok(change)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(settings: &[&str]) -> Result<BootChange, Failure> {
        change(
            &settings
                .iter()
                .map(|setting| (*setting).to_owned())
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn settings_are_read() {
        let read = of(&[
            "cpus=3",
            "memory=2G",
            "disk=1T",
            "home-mount=ro",
            "publish=8080:80,53:53/udp",
            "virtualization=true",
            "kernel=",
        ])
        .unwrap();
        assert_eq!(read.cpus.unwrap().get(), 3);
        assert_eq!(read.disk_capacity.unwrap().bytes(), 1 << 40);
        assert_eq!(read.kernel, Some(PathBuf::new()));
        assert_eq!(read.publish.unwrap().len(), 2);
        assert_eq!(of(&["publish="]).unwrap().publish, Some(Vec::new()));
    }

    #[test]
    fn every_mistake_is_refused() {
        for wrong in [
            "cpus",
            "cpus=0",
            "memory=1",
            "disk=1",
            "disk=9T",
            "disk=big",
            "home-mount=x",
            "publish=80",
            "virtualization=yes",
            "cpu=1",
            "=",
            "",
        ] {
            assert!(of(&["cpus=1", wrong]).is_err(), "{wrong}");
        }
    }
}
