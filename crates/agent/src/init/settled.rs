//! Waits until the boot no longer removes or hides files that a command writes, or until services
//! are started.
//!
//! Early boot mounts file systems over directories (`/tmp`, those of fstab) and empties directories
//! (`/tmp`, `/run`). Each init has one point after which it has done so, and which comes before the
//! services that it starts:
//!
//! | init | point | services are started |
//! |---|---|---|
//! | systemd | `sysinit.target` and the system bus' socket: a socket unit after both creates a file | `default.target`, in the same way |
//! | sysvinit | the switch to the default runlevel, which its process title shows | the end of the `wait` programs of its inittab |
//! | busybox init | the end of the `sysinit` programs of its inittab, also those of OpenRC | the end of the `wait` programs |
//! | built-in, any other | the start | the start |

use std::{fs, io, os::fd::AsFd, time::Duration};

use container_protocol::InitProgram;
use tokio::time::sleep;

use super::inittab::{Inittab, SYSINIT, WAIT};
use crate::machine::GuestRoot;

/// Interval at which the boot is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Directory of units that exist until the machine stops (systemd.unit(5)).
const UNITS: &str = "/run/systemd/system";

/// A point of systemd's boot, which a socket unit marks. It needs no program of the image.
struct Marker {
    /// Name of the socket unit, and of the service that such a unit must have.
    name: &'static str,
    /// File that the unit creates. Nothing ever writes to it.
    file: &'static str,
    /// Target that starts the unit.
    target: &'static str,
    /// Units that are started before.
    after: &'static str,
}

const SETTLED: Marker = Marker {
    name: "container-boot-settled",
    file: "/run/container/boot-settled",
    target: "sysinit.target",
    after: "sysinit.target dbus.socket",
};

const SERVICES: Marker = Marker {
    name: "container-boot-complete",
    file: "/run/container/boot-complete",
    target: "default.target",
    after: "default.target",
};

impl Marker {
    fn socket(&self) -> String {
        format!(
            "[Unit]\n\
             Description=Point of the boot from which commands of the host run\n\
             DefaultDependencies=no\n\
             After={}\n\
             Conflicts=shutdown.target\n\
             Before=shutdown.target\n\
             [Socket]\n\
             ListenFIFO={}\n\
             SocketMode=0600\n",
            self.after, self.file
        )
    }

    fn install(&self, root: &GuestRoot) -> io::Result<()> {
        let wants = format!("{UNITS}/{}.wants", self.target);
        root.make_directory(&wants)?;
        let unit = |suffix: &str| format!("{UNITS}/{}.{suffix}", self.name);
        root.write(&unit("socket"), &self.socket(), 0o644)?;
        root.write(&unit("service"), MARKER_SERVICE, 0o644)?;
        let link = format!("{}.socket", self.name);
        let wants = root.directory(&wants)?;
        rustix::fs::symlinkat(format!("../{link}"), wants.as_fd(), &link)?;
        Ok(())
    }
}

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
    /// The files that the socket units create.
    Systemd,
    /// The process title of sysvinit, and its programs.
    SysVInit,
    /// The programs of the inittab.
    Busybox,
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
            "busybox" => Sign::Busybox,
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
    SETTLED.install(root)?;
    SERVICES.install(root)
}

/// Waits until the boot of the init with this process id has settled. There is no timeout.
pub(super) async fn wait(program: &InitProgram, pid: u32) {
    let Ok(root) = GuestRoot::open() else { return };
    match Sign::choose(program, &root) {
        Sign::None => {}
        Sign::Systemd => until(|| root.exists(SETTLED.file)).await,
        Sign::SysVInit => until(|| is_in_runlevel(pid)).await,
        Sign::Busybox => wait_for_inittab(&Inittab::read(&root, SYSINIT), pid).await,
    }
}

/// Waits until that init has started its services. The boot must have settled. There is no timeout.
pub(super) async fn wait_for_services(program: &InitProgram, pid: u32) {
    let Ok(root) = GuestRoot::open() else { return };
    match Sign::choose(program, &root) {
        Sign::None => {}
        Sign::Systemd => until(|| root.exists(SERVICES.file)).await,
        Sign::SysVInit | Sign::Busybox => {
            wait_for_inittab(&Inittab::read(&root, WAIT), pid).await;
        }
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

/// Waits until init has run the programs of its inittab, one after the other. In between there is a
/// moment without any, so init must not have run between two observations.
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
