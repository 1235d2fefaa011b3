//! `container system dns`

use std::{
    fs,
    io::{self, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use clap::{Args, Subcommand, ValueEnum};
use container_client::Client;
use container_machine::{DnsDomain, NAME_SERVERS, World, domains_of};

use crate::{failure::Failure, output};

/// hosts(5).
const HOSTS: &str = "/etc/hosts";

/// Have this computer know machines by name.
///
/// `<machine>.machine` then leads to a running machine's address, for every program on this computer.
/// It is set up once, and takes root's rights for one step, which is shown before it is done.
#[derive(Debug, Subcommand)]
#[command(after_long_help = "\
Examples:
  container system dns create
  container system dns create --dry-run
  container system dns ls
  container system dns rm machine")]
pub enum Dns {
    Create(Create),
    #[command(visible_alias = "rm", alias = "remove")]
    Delete(Delete),
    #[command(visible_alias = "ls")]
    List(List),
}

/// Make machines known by name below a domain.
///
/// Where systemd-resolved runs and has its servers from the network's links, it is told whom to ask for
/// names below the domain, so machines that come later are known as well. Elsewhere the machines that
/// run now are written into /etc/hosts: do it again for new ones.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container system dns create
  container system dns create test --dry-run")]
pub struct Create {
    /// The domain.
    #[arg(default_value = "machine")]
    domain: DnsDomain,

    /// How: with systemd-resolved or in /etc/hosts; the former where it runs.
    #[arg(long, value_name = "WAY")]
    with: Option<Way>,

    #[command(flatten)]
    dry: Dry,
}

/// Undo what `create` has done for a domain.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container system dns delete machine
  container system dns rm machine --dry-run")]
pub struct Delete {
    /// The domain.
    domain: DnsDomain,

    #[command(flatten)]
    dry: Dry,
}

/// List the domains below which machines are known.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container system dns ls")]
pub struct List {}

#[derive(Debug, Args)]
struct Dry {
    /// Only show what would be done.
    #[arg(long)]
    dry_run: bool,
}

/// How names are made known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Way {
    /// By a file that tells systemd-resolved whom to ask.
    Resolved,
    /// By lines in /etc/hosts.
    Hosts,
}

impl Dns {
    pub async fn carry_out(self, build: &str) -> Result<(), Failure> {
        match self {
            Dns::Create(create) => create.carry_out(build).await,
            Dns::Delete(delete) => delete.carry_out(),
            Dns::List(List {}) => list(),
        }
    }
}

impl Create {
    async fn carry_out(self, build: &str) -> Result<(), Failure> {
        let world = World::of_environment()?;
        let domain = &self.domain;
        let server = world.name_server();
        let obstacle = match self.with {
            Some(Way::Hosts) => None,
            _ => obstacle_to_resolved(server),
        };
        let way = match (self.with, obstacle) {
            (Some(Way::Resolved), Some(obstacle)) => return Err(Failure::new(obstacle)),
            (Some(way), _) => way,
            (None, None) => Way::Resolved,
            (None, Some(obstacle)) => {
                output::note(&format!("{obstacle}; so it is /etc/hosts"));
                Way::Hosts
            }
        };
        let steps = match way {
            Way::Resolved => {
                let content = format!(
                    "# Made by `container system dns create {domain}`; `container system dns delete {domain}` undoes it.\n[Resolve]\nDNS={server}\nDomains=~{domain}\n"
                );
                let write = Step::Write {
                    path: drop_in(&world, domain),
                    shown: content.clone(),
                    content,
                };
                vec![write, restart_resolved()]
            }
            Way::Hosts => {
                let machines = Client::connect(build).await?.machines().await?.machines;
                let known = machines.iter().filter_map(|machine| {
                    let address = machine.ip_address?;
                    Some(format!("{address} {}.{domain}\n", machine.id))
                });
                let lines: String = known.collect();
                if lines.is_empty() {
                    return Err(Failure::new(
                        "no machine is running whose name could be written into /etc/hosts: start those that are to be known, and do this again",
                    ));
                }
                vec![hosts_with(&world, domain, &lines)?]
            }
        };
        carry_out(&steps, self.dry.dry_run)
    }
}

impl Delete {
    fn carry_out(self) -> Result<(), Failure> {
        let world = World::of_environment()?;
        let (domain, mut steps) = (&self.domain, Vec::new());
        let path = drop_in(&world, domain);
        if path.exists() {
            steps.extend([Step::Remove { path }, restart_resolved()]);
        }
        if read_hosts()?.contains(&marks(&world, domain).0) {
            steps.push(hosts_with(&world, domain, "")?);
        }
        if steps.is_empty() {
            return Err(Failure::new(format!(
                "machines are not known below the domain {domain}; `container system dns ls` shows where they are"
            )));
        }
        carry_out(&steps, self.dry.dry_run)
    }
}

fn list() -> Result<(), Failure> {
    let world = World::of_environment()?;
    let known = domains_of(world.name_server(), Path::new(NAME_SERVERS));
    let mut domains: Vec<String> = known.iter().map(ToString::to_string).collect();
    let before = marks(&world, "").0;
    let hosts = read_hosts()?;
    let named = hosts.lines().filter_map(|line| line.strip_prefix(&before));
    domains.extend(named.map(str::to_owned));
    domains.sort();
    domains.dedup();
    output::print(
        &domains
            .iter()
            .map(|it| format!("{it}\n"))
            .collect::<String>(),
    )
}

/// The file that tells systemd-resolved of this world's machines (resolved.conf(5)).
fn drop_in(world: &World, domain: &DnsDomain) -> PathBuf {
    let port = world.name_server().port();
    Path::new(NAME_SERVERS).join(format!("container-{port}-{domain}.conf"))
}

/// Why systemd-resolved cannot be told of the server, if it cannot. What it is told of becomes a server
/// for every name, beside those of the network's links, and in place of its default ones: only where
/// links have servers do all other names go on to lead where they did.
fn obstacle_to_resolved(server: SocketAddr) -> Option<String> {
    let asked = Command::new("resolvectl").arg("dns").output();
    let told = match asked {
        Ok(output) if output.status.success() => output.stdout,
        _ => return Some("systemd-resolved does not run here".to_owned()),
    };
    obstacle_in(&String::from_utf8_lossy(&told), server)
}

/// The same, from what `resolvectl dns` prints: a line `Global: SERVER …`, and a line `Link 2 (eth0): SERVER …`
/// for each link.
fn obstacle_in(told: &str, server: SocketAddr) -> Option<String> {
    let mut has_link = false;
    for line in told.lines() {
        let Some((whose, servers)) = line.split_once(": ") else {
            continue;
        };
        let mut servers = servers.split_whitespace();
        if whose.trim() == "Global" {
            let ours = server.to_string();
            if let Some(other) = servers.find(|it| *it != ours) {
                return Some(format!(
                    "systemd-resolved asks {other} for all names, and would not ask machines"
                ));
            }
        } else {
            has_link |= servers.next().is_some();
        }
    }
    let none = "systemd-resolved has no name servers of the network's links, and would ask machines for all names";
    (!has_link).then(|| none.to_owned())
}

fn restart_resolved() -> Step {
    let words = ["systemctl", "reload-or-restart", "systemd-resolved"];
    Step::Run(words.map(str::to_owned).into())
}

fn read_hosts() -> Result<String, Failure> {
    match fs::read_to_string(HOSTS) {
        Ok(hosts) => Ok(hosts),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(Failure::new(format!("reading {HOSTS}: {error}"))),
    }
}

/// The lines before and behind those of a domain.
fn marks(world: &World, domain: impl std::fmt::Display) -> (String, String) {
    let port = world.name_server().port();
    let begin = format!("# container system dns {port}: {domain}");
    let end = format!("# end of container system dns {port}: {domain}");
    (begin, end)
}

/// Has `/etc/hosts` hold these lines for a domain in place of those that it holds now.
fn hosts_with(world: &World, domain: &DnsDomain, lines: &str) -> Result<Step, Failure> {
    let marks = marks(world, domain);
    Ok(Step::Write {
        path: PathBuf::from(HOSTS),
        content: with_block(&read_hosts()?, &marks, lines),
        shown: with_block("", &marks, lines),
    })
}

fn with_block(hosts: &str, (begin, end): &(String, String), lines: &str) -> String {
    let mut kept = String::new();
    let mut is_within = false;
    for line in hosts.lines() {
        is_within |= line == begin;
        if !is_within {
            kept.push_str(line);
            kept.push('\n');
        }
        is_within &= line != end;
    }
    if !lines.is_empty() {
        kept.push_str(&format!("{begin}\n{lines}{end}\n"));
    }
    if !hosts.is_empty() && !hosts.ends_with('\n') {
        kept.pop();
    }
    kept
}

/// Something that takes root's rights.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Write {
        path: PathBuf,
        content: String,
        /// What of the content is ours.
        shown: String,
    },
    Remove {
        path: PathBuf,
    },
    Run(Vec<String>),
}

impl Step {
    fn told(&self) -> String {
        match self {
            Step::Write { path, shown, .. } if shown.is_empty() => {
                format!(
                    "take out of {} what `create` has put there\n",
                    path.display()
                )
            }
            Step::Write { path, shown, .. } => {
                let lines = shown.lines().map(|line| format!("    {line}\n"));
                format!(
                    "put into {}:\n{}",
                    path.display(),
                    lines.collect::<String>()
                )
            }
            Step::Remove { path } => format!("remove {}\n", path.display()),
            Step::Run(words) => format!("run {}\n", words.join(" ")),
        }
    }

    /// The program that does it, and what it reads.
    fn command(&self) -> (Vec<String>, &str) {
        let words = |words: &[&str], path: &Path| {
            let words = words.iter().map(|&word| word.to_owned());
            words.chain([path.display().to_string()]).collect()
        };
        match self {
            // The file itself: others may have it open, or mounted.
            Step::Write { path, content, .. } if path.exists() => (words(&["tee"], path), content),
            Step::Write { path, content, .. } => {
                let install = ["install", "-D", "-m", "644", "/dev/stdin"];
                (words(&install, path), content)
            }
            Step::Remove { path } => (words(&["rm"], path), ""),
            Step::Run(words) => (words.clone(), ""),
        }
    }

    fn carry_out(&self) -> Result<(), Failure> {
        let (mut words, input) = self.command();
        if !rustix::process::geteuid().is_root() {
            words.insert(0, "sudo".to_owned());
        }
        let failed = |reason: &dyn std::fmt::Display| {
            Failure::new(format!(
                "`{}`: {reason}: `--dry-run` shows what root has to do",
                words.join(" ")
            ))
        };
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| failed(&error))?;
        if let Some(mut stdin) = child.stdin.take() {
            // A program that did not read fails, and says why.
            let _ = stdin.write_all(input.as_bytes());
        }
        let status = child.wait().map_err(|error| failed(&error))?;
        match status.success() {
            true => Ok(()),
            false => Err(failed(&status)),
        }
    }
}

fn carry_out(steps: &[Step], is_dry: bool) -> Result<(), Failure> {
    for step in steps {
        let told = step.told();
        if is_dry {
            output::print(&told)?;
            continue;
        }
        output::note(told.trim_end());
        step.carry_out()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolved_is_told_only_where_other_names_stay_as_they_are() {
        let ours: SocketAddr = "127.19.0.1:20000".parse().unwrap();
        for good in [
            "Global:\nLink 2 (eth0): 192.0.2.1 192.0.2.2\nLink 3 (wlan0):\n",
            "         Global: 127.19.0.1:20000\nLink 2 (eth0): 192.0.2.1\n",
        ] {
            assert_eq!(obstacle_in(good, ours), None, "{good}");
        }
        for bad in [
            "",
            "Global:\nLink 2 (eth0):\n",
            "Global: 127.19.0.1:20000\n",
            "Global: 192.0.2.1\nLink 2 (eth0): 192.0.2.1\n",
        ] {
            assert!(obstacle_in(bad, ours).is_some(), "{bad}");
        }
    }

    #[test]
    fn the_lines_of_others_stay() {
        let marks = |domain: &str| (format!("# begin {domain}"), format!("# end {domain}"));
        let hosts = "127.0.0.1 localhost\n# mine\n";
        let one = with_block(hosts, &marks("a"), "127.19.1.1 dev.a\n");
        assert_eq!(
            one,
            "127.0.0.1 localhost\n# mine\n# begin a\n127.19.1.1 dev.a\n# end a\n"
        );
        let two = with_block(&one, &marks("b"), "127.19.1.1 dev.b\n");
        let again = with_block(&two, &marks("a"), "127.19.1.2 new.a\n");
        assert!(again.contains("dev.b") && again.contains("new.a") && !again.contains("dev.a"));
        let none = with_block(&with_block(&again, &marks("a"), ""), &marks("b"), "");
        assert_eq!(none, hosts);
        let unended = "127.0.0.1 localhost";
        let with = with_block(unended, &marks("a"), "127.19.1.1 dev.a\n");
        assert_eq!(with_block(&with, &marks("a"), ""), unended);
    }
}
