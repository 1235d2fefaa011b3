//! `container machine docker-env`

use std::os::unix::net::UnixStream;

use clap::{Args, ValueEnum};
use container_api::{BootChange, Running};
use container_client::{Client, sockets};
use container_machine::{ForwardedSocket, MachineId};
use container_protocol::{InvalidSocketPath, SocketForward, SocketPath, SocketSource};

use super::{boot::boot, target::one_or_default};
use crate::{failure::Failure, output};

/// Print shell code that lets Docker clients on the host use a machine's Docker or Podman.
///
/// It sets DOCKER_HOST, and for Podman also CONTAINER_HOST. The machine is booted if necessary. The
/// socket of its engine is forwarded to the host, also after later boots: `container machine
/// inspect` shows it, and `container machine set socket=` ends that. Docker comes before Podman,
/// and a rootless engine of your user before one for all users.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  eval \"$(container machine docker-env dev)\"
  container machine docker-env dev --shell fish | source")]
pub(crate) struct DockerEnv {
    /// Machine; default: the default machine.
    id: Option<MachineId>,

    /// Shell to print code for: sh (also bash and zsh) or fish.
    #[arg(
        long,
        value_enum,
        value_name = "SHELL",
        default_value = "sh",
        hide_default_value = true,
        hide_possible_values = true
    )]
    shell: Shell,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Shell {
    #[value(aliases = ["bash", "zsh"])]
    Sh,
    Fish,
}

/// A container engine in a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Engine {
    socket: SocketPath,
    is_podman: bool,
}

impl DockerEnv {
    /// Forwards the engine's socket if necessary, and prints the code.
    pub(crate) async fn run(self, client: &Client) -> Result<(), Failure> {
        let id = one_or_default(client, self.id).await?;
        let running = boot(client, &id).await?;
        let engine = find_engine(&id, &running).await?;
        let host = forward(client, &id, &engine).await?;
        let action = format!("connect to {} of machine {id} at {host}", engine.socket);
        UnixStream::connect(host.as_path()).map_err(Failure::cannot(action))?;
        output::print(&code(self.shell, &id, &engine, &host))
    }
}

/// Returns the engine that a user of the machine would use.
async fn find_engine(id: &MachineId, running: &Running) -> Result<Engine, Failure> {
    let engines = engines(running.user.uid).map_err(|error| Failure::new(error.to_string()))?;
    for engine in &engines {
        if sockets::has_listener(&running.socket, &engine.socket).await? {
            return Ok(engine.clone());
        }
    }
    let paths: Vec<&str> = engines.iter().map(|it| it.socket.as_str()).collect();
    Err(Failure::new(format!(
        "no Docker or Podman listens in machine {:?} at {} (start one in the machine, for example \
         with: sudo systemctl enable --now docker.socket, or: systemctl --user enable --now \
         podman.socket)",
        id.as_str(),
        paths.join(", ")
    )))
}

/// Returns the engines that a machine may have, the preferred one first.
fn engines(uid: u32) -> Result<[Engine; 4], InvalidSocketPath> {
    let engine = |socket: String, is_podman| {
        let socket = socket.parse()?;
        Ok(Engine { socket, is_podman })
    };
    Ok([
        engine(format!("/run/user/{uid}/docker.sock"), false)?,
        engine("/run/docker.sock".to_owned(), false)?,
        engine(format!("/run/user/{uid}/podman/podman.sock"), true)?,
        engine("/run/podman/podman.sock".to_owned(), true)?,
    ])
}

/// Returns the path on the host that leads to the engine, which is forwarded if necessary.
async fn forward(client: &Client, id: &MachineId, engine: &Engine) -> Result<SocketPath, Failure> {
    let forwarded = client.machine(id).await?.sockets;
    if let Some(host) = host_path(&forwarded, engine) {
        return Ok(host);
    }
    let known = forwarded.into_iter().map(ForwardedSocket::from);
    let new = ForwardedSocket::OfMachine {
        machine: engine.socket.clone(),
        host: None,
    };
    let change = BootChange {
        sockets: Some(known.chain([new]).collect()),
        ..BootChange::default()
    };
    for problem in client.set(id, &change).await?.problems {
        output::note(&problem);
    }
    let forwarded = client.machine(id).await?.sockets;
    host_path(&forwarded, engine).ok_or_else(|| {
        Failure::new(format!(
            "cannot forward {}: its setting was changed meanwhile",
            engine.socket
        ))
    })
}

fn host_path(forwarded: &[SocketForward], engine: &Engine) -> Option<SocketPath> {
    let mut forwarded = forwarded.iter();
    let forward =
        forwarded.find(|it| it.source == SocketSource::Machine && it.machine == engine.socket)?;
    Some(forward.host.clone())
}

fn code(shell: Shell, id: &MachineId, engine: &Engine, host: &SocketPath) -> String {
    let address = format!("unix://{host}");
    let mut variables = vec!["DOCKER_HOST"];
    if engine.is_podman {
        variables.push("CONTAINER_HOST");
    }
    let quoted = quote(shell, &address);
    let line = |name| match shell {
        Shell::Sh => format!("export {name}={quoted}\n"),
        Shell::Fish => format!("set -gx {name} {quoted}\n"),
    };
    let mut code: String = variables.into_iter().map(line).collect();
    let usage = match shell {
        Shell::Sh => format!("eval \"$(container machine docker-env {id})\""),
        Shell::Fish => format!("container machine docker-env {id} --shell fish | source"),
    };
    code += &format!("# Configure this shell with: {usage}\n");
    let endpoint = quote(shell, &format!("host={address}"));
    code += &format!("# Or create a context: docker context create {id} --docker {endpoint}\n");
    code
}

/// Returns a word of the shell that stands for the text. The path of a socket has no line breaks.
fn quote(shell: Shell, text: &str) -> String {
    let escaped = match shell {
        Shell::Sh => text.replace('\'', r"'\''"),
        Shell::Fish => text.replace('\\', r"\\").replace('\'', r"\'"),
    };
    format!("'{escaped}'")
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn code_for_each_shell() {
        let id: MachineId = "dev".parse().unwrap();
        let [docker, _, podman, _] = engines(1000).unwrap();
        let host = "/run/user/1000/sockets/docker.sock".parse().unwrap();
        insta::assert_snapshot!("docker-env", code(Shell::Sh, &id, &docker, &host));
        insta::assert_snapshot!("docker-env-fish", code(Shell::Fish, &id, &podman, &host));
    }

    #[test]
    fn quoted_paths_survive_the_shell() {
        let id: MachineId = "dev".parse().unwrap();
        let [_, _, podman, _] = engines(1000).unwrap();
        let path = r#"/a $HOME `id` "b" it's \ ü/x.sock"#;
        let code = code(Shell::Sh, &id, &podman, &path.parse().unwrap());
        let line = format!("{code}printf '%s\\n' \"$DOCKER_HOST\" \"$CONTAINER_HOST\"");
        let printed = Command::new("sh").args(["-c", &line]).output().unwrap();
        let address = format!("unix://{path}\n");
        assert_eq!(
            String::from_utf8(printed.stdout).unwrap(),
            address.repeat(2)
        );
        assert_eq!(quote(Shell::Fish, r"it's \"), r"'it\'s \\'");
    }
}
