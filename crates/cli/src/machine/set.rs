//! `container machine set`

use std::{fmt::Display, path::Path, str::FromStr};

use clap::Args;
use container_api::{BootChange, KernelChoice};
use container_client::Client;
use container_machine::MachineId;
use container_protocol::{AllowRule, PublishedPorts};

use super::{mounts, target::one_or_default};
use crate::{failure::Failure, output, values};

/// Change settings of a machine.
///
/// Published ports, forwarded sockets, mounts, egress rules and idle-suspend change immediately,
/// all other settings at the next boot. The keys are cpus, memory (2G, 4096M), disk (20G, 1T; a
/// disk can only grow), home-mount (rw, ro, none), publish ([ADDRESS:]PORT:MACHINE_PORT[/udp],
/// ports or ranges separated by commas; empty to remove all), socket (MACHINE_PATH[:HOST_PATH] or
/// host:HOST_PATH:MACHINE_PATH, separated by commas or repeated; empty to remove all), mount
/// (SOURCE[:TARGET[:ro|rw]] of directories of the host, separated by commas or repeated; mount+=
/// adds some, mount-=TARGET removes some; empty to remove all), egress (all, public, none: the
/// destinations that the machine may connect to), allow (destinations beyond those: NAME[:PORT] or
/// ADDRESS[/PREFIX][:PORT], separated by commas; allow+= adds some, allow-= removes some; empty to
/// remove all), isolated (true, false: whether the machine gets nothing of the host but what mount,
/// socket, allow and publish name; then home-mount and egress are none), idle-suspend (time without
/// use, such as 30m or 2h, after which the machine is suspended until it is used again, or off),
/// virtualization (true, false), kernel (a path; empty for the default kernel), kernel-args
/// (parameters separated by spaces; empty to remove all) and private-home (directories of the
/// shared home that the machine has for itself, separated by commas; empty to remove all). If one
/// setting is invalid, nothing is changed.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container machine set -n dev cpus=2 memory=2G
  container machine set home-mount=ro
  container machine set -n dev disk=1T
  container machine set -n dev publish=8080:80,0.0.0.0:5353:53/udp
  container machine set -n dev socket=/run/docker.sock
  container machine set -n dev mount+=.:/srv/project:ro
  container machine set -n dev egress=none allow=deb.debian.org
  container machine set -n dev allow+=10.0.0.0/8
  container machine set -n dev idle-suspend=30m
  container machine set -n dev kernel= kernel-args='quiet init_on_alloc=1'")]
pub(crate) struct Set {
    /// Machine; default: the default machine.
    #[arg(short, long)]
    name: Option<MachineId>,

    /// Settings: cpus, memory, disk, home-mount, private-home, publish, socket, mount, egress,
    /// allow, isolated, idle-suspend, virtualization, kernel, kernel-args.
    #[arg(required = true, value_name = "KEY=VALUE")]
    settings: Vec<String>,
}

impl Set {
    /// Changes all given settings or none, and prints the id.
    pub(crate) async fn run(self, client: &Client) -> Result<(), Failure> {
        let change = parse_settings(&self.settings)?;
        let id = one_or_default(client, self.name).await?;
        let changed = client.set(&id, &change).await?;
        for problem in changed.problems {
            output::note(&problem);
        }
        if changed.running {
            output::note(&format!(
                "The change takes effect at the next boot (restart with: container machine restart {id})."
            ));
        }
        if changed.suspended {
            output::note(&format!(
                "{id} is suspended. The change takes effect when it has been resumed and restarted."
            ));
        }
        output::line(id)
    }
}

fn parse_settings(settings: &[String]) -> Result<BootChange, Failure> {
    let mut change = BootChange::default();
    for setting in settings {
        let (key, value) = setting.split_once('=').ok_or_else(|| {
            Failure::new(format!(
                "setting {setting:?} is not of the form KEY=VALUE (name the machine with: --name NAME)"
            ))
        })?;
        match key {
            "cpus" => change.cpus = Some(values::cpus(value).map_err(invalid(key))?),
            "memory" => change.memory = Some(parse(key, value)?),
            "disk" => change.disk_capacity = Some(parse(key, value)?),
            "home-mount" => change.home_mount = Some(parse(key, value)?),
            "private-home" => change.private_home = Some(parse(key, value)?),
            "idle-suspend" => change.idle_suspend = Some(parse(key, value)?),
            "egress" => change.egress = Some(parse(key, value)?),
            "allow" => change.allow.replaced = Some(parse_rules(key, value)?),
            "allow+" => change.allow.added.extend(parse_rules(key, value)?),
            "allow-" => change.allow.removed.extend(parse_rules(key, value)?),
            "publish" => {
                let ports = value.split(',').filter(|ports| !ports.is_empty());
                let ports: Result<Vec<PublishedPorts>, Failure> =
                    ports.map(|ports| parse(key, ports)).collect();
                change.publish = Some(ports?.into_iter().flat_map(|it| it.0).collect());
            }
            "socket" => {
                let sockets = value.split(',').filter(|socket| !socket.is_empty());
                let sockets: Result<Vec<_>, Failure> =
                    sockets.map(|socket| parse(key, socket)).collect();
                change.sockets.get_or_insert_default().extend(sockets?);
            }
            "mount" | "mount+" | "mount-" => {
                let change = change.mounts.get_or_insert_default();
                mounts::change(change, key, value).map_err(|error| invalid("mount")(error))?;
            }
            "isolated" => change.isolated = Some(parse_switch(key, value)?),
            "virtualization" => change.virtualization = Some(parse_switch(key, value)?),
            "kernel" if value.is_empty() => change.kernel = Some(KernelChoice::Default),
            "kernel" => {
                let path = values::kernel_path(Path::new(value))?;
                change.kernel = Some(KernelChoice::Image(path));
            }
            "kernel-args" => change.kernel_args = Some(parse(key, value)?),
            unknown => {
                return Err(Failure::new(format!(
                    "unknown setting {unknown:?} (available: cpus, memory, disk, home-mount, private-home, publish, socket, mount, egress, allow, isolated, idle-suspend, virtualization, kernel, kernel-args)"
                )));
            }
        }
    }
    Ok(change)
}

fn parse_rules(key: &str, value: &str) -> Result<Vec<AllowRule>, Failure> {
    let rules = value.split(',').filter(|rule| !rule.is_empty());
    rules.map(|rule| parse(key, rule)).collect()
}

fn parse<T: FromStr<Err: Display>>(key: &str, value: &str) -> Result<T, Failure> {
    value.parse().map_err(invalid(key))
}

fn parse_switch(key: &str, value: &str) -> Result<bool, Failure> {
    let reason = format!("{value:?} is neither true nor false");
    value.parse().map_err(|_| invalid(key)(reason))
}

fn invalid<E: Display>(key: &str) -> impl Fn(E) -> Failure {
    move |reason| Failure::new(format!("invalid value for {key}: {reason}"))
}

#[cfg(test)]
mod tests {
    use container_api::RemovedMounts;
    use container_protocol::EgressMode;

    use super::*;

    fn parsed(settings: &[&str]) -> Result<BootChange, Failure> {
        let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
        parse_settings(&settings)
    }

    #[test]
    fn valid_settings_are_parsed() {
        let change = parsed(&[
            "cpus=3",
            "memory=2G",
            "disk=1T",
            "home-mount=ro",
            "private-home=.cache,.local/share/containers",
            "publish=8080:80,53:53/udp",
            "socket=/a.sock,/b.sock:/c.sock",
            "socket=host:/d.sock:/e.sock",
            "egress=none",
            "allow=a.test,*.b.test:443",
            "allow+=10.0.0.0/8,[2001:db8::1]:443",
            "allow-=a.test",
            "mount+=/a,/b:/c:ro",
            "mount-=/d",
            "idle-suspend=30m",
            "virtualization=true",
            "kernel=",
        ])
        .unwrap();
        assert_eq!(change.cpus.unwrap().get(), 3);
        assert_eq!(change.disk_capacity.unwrap().bytes(), 1 << 40);
        assert_eq!(change.kernel, Some(KernelChoice::Default));
        assert_eq!(change.publish.unwrap().len(), 2);
        assert_eq!(change.sockets.unwrap().len(), 3);
        assert_eq!(change.egress, Some(EgressMode::None));
        assert_eq!(change.allow.replaced.unwrap().len(), 2);
        assert_eq!(change.allow.added.len(), 2);
        assert_eq!(change.allow.removed, ["a.test".parse().unwrap()]);
        let cleared = parsed(&["allow="]).unwrap().allow;
        assert_eq!(cleared.replaced, Some(Vec::new()));
        assert_eq!(parsed(&["socket="]).unwrap().sockets, Some(Vec::new()));
        let mounts = change.mounts.unwrap();
        assert_eq!(mounts.add.len(), 2);
        let removed = RemovedMounts::At(vec!["/d".parse().unwrap()]);
        assert_eq!(mounts.remove, removed);
        let as_added = parsed(&["mount-=/b:/c:ro"]).unwrap().mounts.unwrap();
        let removed = RemovedMounts::At(vec!["/c".parse().unwrap()]);
        assert_eq!(as_added.remove, removed);
        let replaced = parsed(&["mount=/a"]).unwrap().mounts.unwrap();
        assert_eq!(
            (replaced.remove, replaced.add.len()),
            (RemovedMounts::All, 1)
        );
        let none = parsed(&["mount="]).unwrap().mounts.unwrap();
        assert_eq!((none.remove, none.add.len()), (RemovedMounts::All, 0));
        assert_eq!(parsed(&["publish="]).unwrap().publish, Some(Vec::new()));
    }

    #[test]
    fn invalid_settings_are_refused() {
        for wrong in [
            "cpus",
            "cpus=0",
            "memory=1",
            "disk=1",
            "disk=9T",
            "disk=big",
            "home-mount=x",
            "private-home=/etc",
            "publish=80",
            "socket=docker.sock",
            "egress=private",
            "allow=https://a.test",
            "allow+=*",
            "allow+=-x",
            "allow=a-.test",
            "mount=/a:b",
            "mount+=",
            "mount-=",
            "idle-suspend=0s",
            "idle-suspend=30",
            "virtualization=yes",
            "cpu=1",
            "=",
            "",
        ] {
            assert!(parsed(&["cpus=1", wrong]).is_err(), "{wrong}");
        }
        let unknown = parsed(&["cpu=1"]).unwrap_err().to_string();
        assert!(unknown.starts_with("unknown setting \"cpu\" (available: cpus, "));
    }
}
