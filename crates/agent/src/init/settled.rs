//! Waits until the boot no longer removes or hides files that a command writes.
//!
//! Early boot mounts file systems over directories (`/tmp`, those of fstab) and empties directories
//! (`/tmp`, `/run`). Each init has one point after which it has done so, and which comes before the
//! services that it starts:
//!
//! | init | point |
//! |---|---|
//! | systemd | `sysinit.target` and the system bus' socket: a socket unit after both creates a file |
//! | sysvinit | the switch to the default runlevel, which its process title shows |
//! | busybox init | the end of the `sysinit` programs of its inittab, also those of OpenRC |
//! | built-in, any other | the start |

use std::{fs, io, os::fd::AsFd, time::Duration};

use container_protocol::InitProgram;
use tokio::time::sleep;

use super::inittab::Inittab;
use crate::machine::GuestRoot;

/// Interval at which the boot is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Directory of units that exist until the machine stops (systemd.unit(5)).
const UNITS: &str = "/run/systemd/system";

/// Name of the socket unit that marks the point, and of the service that such a unit must have.
const MARKER: &str = "container-boot-settled";

/// File that the socket unit creates.
const MARKER_FILE: &str = "/run/container/boot-settled";

/// The socket unit. It needs no program of the image. Nothing ever writes to the file.
const MARKER_SOCKET: &str = "\
[Unit]
Description=Point of the boot from which commands of the host run
DefaultDependencies=no
After=sysinit.target dbus.socket
Conflicts=shutdown.target
Before=shutdown.target

[Socket]
ListenFIFO=/run/container/boot-settled
SocketMode=0600
";

const MARKER_SERVICE: &str = "\
[Unit]
Description=Point of the boot from which commands of the host run
DefaultDependencies=no

[Service]
Type=oneshot
ExecStart=/bin/true
";

/// Way to recognize that the boot has settled.
#[derive(Debug)]
enum Sign {
    /// The file that the socket unit creates.
    Systemd,
    /// The process title of sysvinit.
    SysVInit,
    /// No `sysinit` program runs.
    Busybox(Inittab),
    /// Nothing of the boot touches the files of others.
    None,
}

impl Sign {
    fn choose(program: &InitProgram, root: &GuestRoot) -> Sign {
        let InitProgram::OfImage(program) = program else {
            return Sign::None;
        };
        let name = program.rsplit('/').next().unwrap_or(program);
        match name {
            "systemd" => Sign::Systemd,
            "busybox" => Sign::Busybox(Inittab::read(root)),
            // The only init that has this name and this file.
            "init" if root.exists("/etc/inittab") => Sign::SysVInit,
            _ => Sign::None,
        }
    }
}

/// Makes the point recognizable. Called before init starts.
pub(super) fn prepare(root: &GuestRoot, program: &InitProgram) -> io::Result<()> {
    if !matches!(Sign::choose(program, root), Sign::Systemd) {
        return Ok(());
    }
    let wants = format!("{UNITS}/sysinit.target.wants");
    root.make_directory(&wants)?;
    root.write(&format!("{UNITS}/{MARKER}.socket"), MARKER_SOCKET, 0o644)?;
    root.write(&format!("{UNITS}/{MARKER}.service"), MARKER_SERVICE, 0o644)?;
    let link = format!("{MARKER}.socket");
    let wants = root.directory(&wants)?;
    rustix::fs::symlinkat(format!("../{link}"), wants.as_fd(), &link)?;
    Ok(())
}

/// Waits until the boot of the init with this process id has settled. There is no timeout.
pub(super) async fn wait(program: &InitProgram, pid: u32) {
    let Ok(root) = GuestRoot::open() else { return };
    match Sign::choose(program, &root) {
        Sign::None => {}
        Sign::Systemd => until(|| root.exists(MARKER_FILE)).await,
        Sign::SysVInit => until(|| is_in_runlevel(pid)).await,
        Sign::Busybox(inittab) => wait_for_inittab(&inittab, pid).await,
    }
}

async fn until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        sleep(POLL_INTERVAL).await;
    }
}

/// Returns whether sysvinit has entered a runlevel: its title is `init boot` before, and `init [2]`
/// after the programs of `sysinit` and `boot` have ended.
fn is_in_runlevel(pid: u32) -> bool {
    let title = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let is_runlevel = |byte: &u8| byte.is_ascii_alphanumeric();
    let level = title.strip_prefix(b"init [").and_then(<[u8]>::first);
    level.is_some_and(is_runlevel)
}

/// Waits until busybox init has run its `sysinit` programs, one after the other. In between there
/// is a moment without any, so init must not have run between two observations.
async fn wait_for_inittab(inittab: &Inittab, pid: u32) {
    let mut last = None;
    loop {
        let activity = inittab.activity(pid);
        if activity.is_some() && activity == last {
            return;
        }
        last = activity;
        sleep(POLL_INTERVAL).await;
    }
}
