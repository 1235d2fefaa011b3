//! The SSH server of a connection: OpenSSH's `sshd`, started as a command.
//!
//! It runs as the user who logs in, with the environment, limits and session of every command of
//! this user, and reads nothing of the image's `/etc/ssh`. Its program is in the initramfs. Its
//! files are in the machine's `/run`, in a directory for each connection.

use std::{
    collections::HashSet,
    ffi::{OsStr, OsString},
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{
            ffi::OsStrExt,
            fs::{MetadataExt, chown},
        },
    },
};

use container_protocol::{CommandId, CommandRequest, SshServer};
use nix::libc;

use super::{
    environment::Environment,
    login::{Login, Program},
    terminfo,
};
use crate::{
    init::InitProcess,
    machine::{GuestRoot, descriptor_path},
    processes::{children, connected_streams, group},
    signal,
};

/// The program in the initramfs.
const PROGRAM: &str = "/sshd";

/// Directory of the connections' directories in the machine. The program's build knows it too
/// (`xtask/src/guest/openssh.rs`).
const DIRECTORY: &str = "/run/container/ssh";

const CONFIGURATION: &str = "config";
const HOST_KEY: &str = "host_key";
const AUTHORIZED_KEYS: &str = "authorized_keys";

/// Limit of repetitions, for a command whose processes ignore the signal and start others.
const MAX_HANG_UPS: usize = 16;

/// Settings of every connection (sshd_config(5)). Who may connect may run any command as any user
/// of the machine, so nothing in it is forbidden to them.
const SETTINGS: &str = "\
StrictModes no
AuthenticationMethods publickey
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
PermitUserRC no
PrintMotd no
LogLevel ERROR
LoginGraceTime 0
MaxSessions 1000
TCPKeepAlive no
UseDNS no
AllowTcpForwarding yes
AllowStreamLocalForwarding yes
StreamLocalBindUnlink yes
GatewayPorts clientspecified
Subsystem sftp internal-sftp
";

/// Files of the server of one connection. Dropping this removes them.
pub(super) struct SshFiles {
    init: u32,
    directory: String,
    program: OwnedFd,
}

impl SshFiles {
    /// Writes the files of the server for `login`.
    pub(super) fn write(
        init: &InitProcess,
        id: CommandId,
        server: &SshServer,
        request: &CommandRequest,
        login: &Login,
    ) -> io::Result<SshFiles> {
        let files = SshFiles {
            init: init.pid,
            directory: format!("{DIRECTORY}/{:016x}", id.0),
            program: File::open(PROGRAM)?.into(),
        };
        let root = files.root()?;
        root.make_directory(&files.directory)?;
        let configuration = configuration(&files.directory, server, request, &login.environment);
        for (name, content) in [
            (CONFIGURATION, configuration.as_slice()),
            (HOST_KEY, server.host_key.as_bytes()),
            (AUTHORIZED_KEYS, server.authorized_keys.as_bytes()),
        ] {
            let path = files.path(name);
            root.write_bytes(&path, content, 0o600)?;
            // The server runs as this user. Only root may change the directory.
            let file = root.locate(&path)?;
            chown(
                descriptor_path(file.as_fd()),
                Some(login.uid),
                Some(login.gid),
            )?;
        }
        Ok(files)
    }

    /// Returns the program and its arguments. Its path is valid while `self` exists, for children
    /// of the agent.
    pub(super) fn program(&self) -> Program {
        let words = ["sshd", "-i", "-e", "-f", &self.path(CONFIGURATION)];
        Program {
            path: format!("/proc/self/fd/{}", self.program.as_raw_fd()).into(),
            arguments: words.map(OsString::from).to_vec(),
            is_shell: false,
        }
    }

    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.directory)
    }

    fn root(&self) -> io::Result<GuestRoot> {
        // Not kept: it would keep the machine's file systems in use.
        GuestRoot::of_process(self.init)
    }
}

impl Drop for SshFiles {
    fn drop(&mut self) {
        // Fails if the machine is shutting down, and its /run disappears anyway.
        let Ok(root) = self.root() else { return };
        for name in [CONFIGURATION, HOST_KEY, AUTHORIZED_KEYS] {
            let _ = root.remove(&self.path(name));
        }
        let _ = root.remove_directory(&self.directory);
    }
}

/// Returns the server's configuration. Its sessions get the command's environment.
fn configuration(
    directory: &str,
    server: &SshServer,
    request: &CommandRequest,
    environment: &Environment,
) -> Vec<u8> {
    let (forwards_agent, accepted) = if server.is_isolated {
        ("no", "TERM")
    } else {
        ("yes", "*")
    };
    let mut text = format!(
        "HostKey {directory}/{HOST_KEY}\nAuthorizedKeysFile {directory}/{AUTHORIZED_KEYS}\n\
         AllowAgentForwarding {forwards_agent}\nAcceptEnv {accepted}\n{SETTINGS}"
    )
    .into_bytes();
    // All variables in one line: the first `SetEnv` counts.
    text.extend(b"SetEnv");
    for (name, value) in environment.iter() {
        if is_for_sessions(request, name, value) {
            text.extend(b" \"");
            for byte in [name.as_bytes(), b"=", value.as_bytes()].concat() {
                if matches!(byte, b'"' | b'\\') {
                    text.push(b'\\');
                }
                text.push(byte);
            }
            text.push(b'"');
        }
    }
    text.push(b'\n');
    text
}

/// Returns whether the sessions get a variable from the configuration.
fn is_for_sessions(request: &CommandRequest, name: &OsStr, value: &OsStr) -> bool {
    if value.as_bytes().contains(&b'\n') || name.as_bytes().contains(&b'\n') {
        // Cannot be written in a line.
        return false;
    }
    match name.to_str() {
        // The client decides whether to forward its agent.
        Some("SSH_AUTH_SOCK") => false,
        // The client names the terminal of each session. If the machine does not know the caller's,
        // another takes its place.
        Some("TERM") => {
            let is_handed_on = request.handed_on.names.iter().any(|name| name == "TERM");
            is_handed_on && value == terminfo::FALLBACK
        }
        _ => true,
    }
}

/// Sends SIGHUP to the commands of all sessions of the server with this process id, similar to what
/// `run` does when its caller ends. The server itself only closes their pipes.
pub(super) fn hang_up(server: u32) {
    let program = file_identity(PROGRAM);
    let is_server = |process: &u32| {
        program.is_some() && file_identity(&format!("/proc/{process}/exe")) == program
    };
    let mut servers = vec![server];
    // Unless it has ended, and another process has its id.
    servers.retain(is_server);
    while let Some(server) = servers.pop() {
        for child in children(server) {
            if is_server(&child) {
                servers.push(child);
            } else {
                hang_up_command(child);
            }
        }
    }
}

/// Sends SIGHUP to the processes of a command that use the connection. Others continue, as after
/// the end of any SSH connection: editors start their servers in the background of such a command,
/// without `nohup`, and find them again when they reconnect.
fn hang_up_command(leader: u32) {
    let connection = connected_streams(leader);
    let mut signalled = HashSet::new();
    for _ in 0..MAX_HANG_UPS {
        // Those that a process has started since the last time are new.
        let found: Vec<u32> = group(leader)
            .filter(|process| !signalled.contains(process))
            .filter(|process| {
                let streams = connected_streams(*process);
                *process == leader || streams.iter().any(|stream| connection.contains(stream))
            })
            .collect();
        if found.is_empty() {
            return;
        }
        for process in found {
            // Fails if it has just ended.
            let _ = signal::send(process, libc::SIGHUP);
            signalled.insert(process);
        }
    }
}

/// Returns the device and inode number of a file.
fn file_identity(path: &str) -> Option<(u64, u64)> {
    let file = fs::metadata(path).ok()?;
    Some((file.dev(), file.ino()))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader, Read},
        os::unix::process::{CommandExt, ExitStatusExt},
        process::{Command, Stdio as StdStdio},
    };

    use container_protocol::{
        CommandLine, HandedOn, Identity, Start, Stdio, UserReference, WorkingDirectory,
    };

    use super::*;

    fn request(handed_on: &[&str]) -> CommandRequest {
        CommandRequest {
            command: CommandLine::Login,
            identity: Identity {
                user: UserReference::Id(0),
                group: None,
                supplementary_groups: vec![],
            },
            environment: vec![],
            handed_on: HandedOn {
                names: handed_on.iter().map(|name| (*name).to_owned()).collect(),
                ..HandedOn::default()
            },
            working_directory: WorkingDirectory::Home,
            stdio: Stdio::Pipes,
            start: Start::Settled,
        }
    }

    fn variables(pairs: &[(&str, &str)], handed_on: &[&str]) -> String {
        let mut environment = Environment::default();
        for (name, value) in pairs {
            environment.set(name, value);
        }
        let text = written(false, handed_on, &environment);
        text.lines().last().unwrap().to_owned()
    }

    fn written(is_isolated: bool, handed_on: &[&str], environment: &Environment) -> String {
        let server = SshServer {
            host_key: String::new(),
            authorized_keys: String::new(),
            is_isolated,
        };
        let text = configuration("/d", &server, &request(handed_on), environment);
        let text = String::from_utf8(text).unwrap();
        assert!(text.starts_with("HostKey /d/host_key\n"), "{text}");
        text
    }

    #[test]
    fn what_does_not_use_the_connection_is_not_hung_up() {
        let script = "sleep 1000 </dev/null >/dev/null 2>&1 & echo $!; \
                      sleep 1000 | sleep 1000; echo lost";
        let mut command = Command::new("sh");
        command.args(["-c", script]).process_group(0);
        command.stdin(StdStdio::piped()).stdout(StdStdio::piped());
        let mut command = command.spawn().unwrap();
        let mut output = BufReader::new(command.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let in_background: u32 = line.trim().parse().unwrap();
        hang_up_command(command.id());
        let status = command.wait().unwrap();
        assert_eq!(status.signal(), Some(libc::SIGHUP));
        // Its other processes have the pipe.
        let mut rest = String::new();
        output.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "");
        signal::send(in_background, libc::SIGKILL).unwrap();
    }

    #[test]
    fn an_isolated_machine_gets_no_agent_and_no_variables() {
        for (is_isolated, lines) in [
            (false, "AllowAgentForwarding yes\nAcceptEnv *"),
            (true, "AllowAgentForwarding no\nAcceptEnv TERM"),
        ] {
            let text = written(is_isolated, &[], &Environment::default());
            let line = format!("\n{lines}\n");
            assert!(text.contains(&line), "{text}");
        }
    }

    #[test]
    fn variables_are_quoted_and_those_that_a_line_cannot_have_are_left_out() {
        let pairs = [("A", "two  words # x"), ("B", r#"\"'"#), ("C", "a\nb")];
        assert_eq!(
            variables(&pairs, &[]),
            r#"SetEnv "A=two  words # x" "B=\\\"'""#
        );
    }

    #[test]
    fn the_client_decides_about_terminal_and_agent() {
        let known = [("SSH_AUTH_SOCK", "/s"), ("TERM", "xterm-kitty")];
        assert_eq!(variables(&known, &["TERM"]), "SetEnv");
        let unknown = [("TERM", terminfo::FALLBACK)];
        assert_eq!(
            variables(&unknown, &["TERM"]),
            r#"SetEnv "TERM=xterm-256color""#
        );
        assert_eq!(variables(&unknown, &[]), "SetEnv");
    }
}
