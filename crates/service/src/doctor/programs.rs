//! The service, and the machines with their runtimes.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use container_api::{Check, Pong};
use container_machine::{Bundle, Bundles, Directories, MachineId, ProcessLock};
use container_runtime::Runtime;

use crate::build::build_id;

/// Timeout for the service's reply.
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum length of the reply in bytes.
const MAX_REPLY: u64 = 64 << 10;

/// Checks that the service, if it runs, replies.
pub(super) fn service(directories: &Directories) -> Check {
    let name = "service";
    let holder = ProcessLock::holder(&directories.runtime.join("service.lock"));
    let Some(process) = holder else {
        return Check::ok(name, "not running; the next command starts it");
    };
    match ping(&directories.service_socket()) {
        Ok(pong) if pong.data != directories.data => Check::problem(
            name,
            format!(
                "process {process} serves other data: {}",
                pong.data.display()
            ),
        )
        .with_fix("set XDG_RUNTIME_DIR to another directory as well"),
        Ok(pong) if pong.build != build_id() => Check::ok(
            name,
            format!("process {process} is of another build, and is replaced when it is idle"),
        ),
        Ok(_) => Check::ok(name, format!("process {process} replies")),
        Err(error) => Check::problem(
            name,
            format!(
                "process {process} does not reply ({error}); its log is {}",
                directories.data.join("service.log").display()
            ),
        )
        .with_fix(format!(
            "kill {process}; machines keep running, and the next command starts another service"
        )),
    }
}

/// Asks the service for its build. The request is written by hand, so that a broken client does not
/// look like a broken service.
fn ping(socket: &Path) -> io::Result<Pong> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PING_TIMEOUT))?;
    stream.set_write_timeout(Some(PING_TIMEOUT))?;
    stream.write_all(b"GET /v1/ping HTTP/1.1\r\nHost: service\r\nConnection: close\r\n\r\n")?;
    let mut reply = String::new();
    stream.take(MAX_REPLY).read_to_string(&mut reply)?;
    parse_reply(&reply)
}

fn parse_reply(reply: &str) -> io::Result<Pong> {
    let (_, body) = reply
        .split_once("\r\n\r\n")
        .ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok(serde_json::from_str(body)?)
}

/// Checks all machines: one check for their number, and one for each that needs attention.
pub(super) async fn machines(directories: &Directories) -> Vec<Check> {
    let name = "machines";
    let read = Bundles::open(&directories.data).and_then(|bundles| {
        let ids = bundles.ids()?;
        Ok((bundles, ids))
    });
    let (bundles, ids) = match read {
        Ok(read) => read,
        Err(error) => return vec![Check::problem(name, error.to_string())],
    };
    let (mut running, mut troubled) = (0, Vec::new());
    for id in &ids {
        let Ok(bundle) = bundles.get(id) else {
            continue;
        };
        let machine = machine(directories, id, &bundle).await;
        running += usize::from(machine.is_running);
        troubled.extend(machine.trouble);
    }
    let number = match ids.len() {
        1 => "1 machine".to_owned(),
        number => format!("{number} machines"),
    };
    let message = format!("{number}, {running} running");
    let mut checks = vec![Check::ok(name, message)];
    checks.extend(troubled);
    checks
}

struct Machine {
    is_running: bool,
    trouble: Option<Check>,
}

async fn machine(directories: &Directories, id: &MachineId, bundle: &Bundle) -> Machine {
    let name = format!("machine {id}");
    let files = bundle
        .configuration()
        .and_then(|_| bundle.boot_configuration())
        .and_then(|_| bundle.current_disk_file());
    if let Err(error) = files {
        let trouble = Check::problem(name, error.to_string()).with_fix(format!(
            "report it, with the files in {}; the disk beside them is not affected",
            bundles_directory(directories, id)
        ));
        return Machine {
            is_running: false,
            trouble: Some(trouble),
        };
    }
    let directory = bundle.runtime_directory().ok().flatten();
    let directory = directory.unwrap_or_else(|| directories.runtime_directory(id));
    match Runtime::find(&directory, &bundle.runtime_lock()).await {
        Ok(None) => Machine {
            is_running: false,
            trouble: None,
        },
        Ok(Some(runtime)) => {
            let status = runtime.status();
            let paused = status.pause_reason.as_ref().map(|reason| {
                Check::warning(
                    &name,
                    format!("paused, because the host cannot write its disk: {reason}"),
                )
                .with_fix("free space on the host's disk; the machine continues by itself")
            });
            let unresponsive = status.unresponsive.then(|| {
                Check::warning(&name, "its kernel does not answer").with_fix(format!(
                    "container machine logs --boot {id} shows its console; container machine stop \
                     --force {id} cuts its power"
                ))
            });
            Machine {
                is_running: true,
                trouble: paused.or(unresponsive),
            }
        }
        Err(error) => Machine {
            is_running: true,
            trouble: Some(Check::problem(name, error.to_string())),
        },
    }
}

fn bundles_directory(directories: &Directories, id: &MachineId) -> String {
    let directory = directories.data.join("machines").join(id.as_str());
    directory.display().to_string()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use container_api::CheckStatus;

    use super::*;

    fn directories(root: &Path) -> Directories {
        Directories {
            data: root.join("data"),
            config: root.join("config"),
            runtime: root.join("runtime"),
        }
    }

    #[test]
    fn replies_are_parsed() {
        let reply = "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{\"build\":\"b\",\"data\":\"/d\"}";
        assert_eq!(parse_reply(reply).unwrap().build, "b");
        assert!(parse_reply("HTTP/1.1 200 OK\r\n").is_err());
        assert!(parse_reply("HTTP/1.1 500 No\r\n\r\nno").is_err());
    }

    #[test]
    fn a_service_that_does_not_reply_is_a_problem() {
        let root = tempfile::tempdir().unwrap();
        let directories = directories(root.path());
        fs::create_dir(&directories.runtime).unwrap();
        assert_eq!(service(&directories).status, CheckStatus::Ok);
        let lock = directories.runtime.join("service.lock");
        let _lock = ProcessLock::acquire(&lock, Duration::ZERO).unwrap();
        let check = service(&directories);
        assert_eq!(check.status, CheckStatus::Problem);
        let kill = format!("kill {}", std::process::id());
        assert!(check.fix.unwrap().starts_with(&kill));
    }

    #[tokio::test]
    async fn a_machine_without_a_configuration_is_a_problem() {
        let root = tempfile::tempdir().unwrap();
        let directories = directories(root.path());
        fs::create_dir_all(directories.data.join("machines/dev")).unwrap();
        let checks = machines(&directories).await;
        assert_eq!(checks[0].message, "1 machine, 0 running");
        assert_eq!(checks[1].name, "machine dev");
        assert_eq!(checks[1].status, CheckStatus::Problem);
        assert!(checks[1].fix.as_ref().unwrap().contains("machines/dev"));
    }
}
