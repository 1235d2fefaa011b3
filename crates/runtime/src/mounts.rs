//! Directories of the host that the machine mounts besides its home.
//!
//! Each is a device behind one of the engine's ports, with a process that serves it. The devices
//! are attached while the machine is paused before it boots, or while it runs, and the agent mounts
//! what it finds.

use std::{
    fs, io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
    sync::Arc,
    time::Duration,
};

use container_engine::{AttachedShare, FileShare, Running, SharePort};
use container_protocol::{
    GuestShare, MountProblem, MountReply, MountRequest, Port,
    frame::{self, FrameError},
    local::MountShare,
    mux::Opener,
};
use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, openat2},
    io::Errno,
};
use tokio::time::timeout;

use crate::{
    file_share::{FileShareProcess, open_directory},
    home_relay::HomeRelay,
    launch::{HomeShare, Launch},
    log::Log,
    shares::{AttachedMount, Shares},
    state::MachineState,
};

/// Maximum number of mounts of a machine.
pub const MAX_MOUNTS: usize = container_engine::SHARE_PORTS as usize;

/// Timeout for the agent to mount or unmount directories. It waits for devices to appear, which
/// takes seconds on a busy host with an emulated processor.
const AGENT_TIMEOUT: Duration = Duration::from_secs(60);

/// A mount that is served, and whose device is not attached yet.
pub(crate) struct StartedMount {
    mount: AttachedMount,
    process: FileShareProcess,
    relay: Arc<HomeRelay>,
    device: FileShare,
}

/// Returns the virtio-fs tag of the mount at a port.
fn tag(port: SharePort) -> String {
    format!("mount{}", port.number())
}

impl AttachedMount {
    /// Returns the mount as the agent mounts it.
    pub(crate) fn guest_share(&self) -> GuestShare {
        GuestShare {
            tag: tag(self.port),
            path: self.share.target.clone(),
            read_only: self.share.read_only,
            private: Vec::new(),
        }
    }

    /// Starts to serve the mount.
    pub(crate) fn start(self, launch: &Launch) -> io::Result<StartedMount> {
        let source = self.share.source.clone();
        let directory = open_source(&source)?;
        self.start_in(launch, &source, directory.as_fd())
    }

    /// Starts to serve the mount of a machine that is resumed. If the machine is not to have it any
    /// more, or the directory does not exist, an empty one takes its place, because the machine
    /// still has the device.
    pub(crate) fn start_resumed(
        self,
        launch: &Launch,
        machine: &MachineState,
    ) -> io::Result<StartedMount> {
        if !machine.wanted_mounts().contains(&self.share) {
            return self.start_empty(launch);
        }
        let source = self.share.source.clone();
        let error = match open_source(&source) {
            Ok(directory) => return self.start_in(launch, &source, directory.as_fd()),
            Err(error) => error,
        };
        machine.add_note(format!(
            "{} is empty in the machine, because {} cannot be read any more: {error}",
            self.share.target,
            source.display()
        ));
        self.start_empty(launch)
    }

    /// Starts to serve an empty directory, which cannot be written: what is written to it would be
    /// lost.
    fn start_empty(mut self, launch: &Launch) -> io::Result<StartedMount> {
        let share = self.share.clone();
        self.share.read_only = true;
        let empty = launch.runtime_directory.join(tag(self.port));
        match fs::create_dir(&empty) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let directory = open_directory(&empty)?;
        let mut started = self.start_in(launch, &empty, directory.as_fd())?;
        started.mount.share = share;
        Ok(started)
    }

    /// `path` is where the directory was opened.
    fn start_in(
        self,
        launch: &Launch,
        path: &Path,
        directory: BorrowedFd<'_>,
    ) -> io::Result<StartedMount> {
        let share = HomeShare {
            path: path.to_owned(),
            read_only: self.share.read_only,
            hidden: self.share.hidden.clone(),
            private: Vec::new(),
        };
        let log = Log::new(&launch.file_share_log());
        let (process, connections) =
            FileShareProcess::start(&share, directory, log, &launch.runtime_directory)?;
        Ok(StartedMount {
            relay: Arc::new(HomeRelay::start(connections.agent)?),
            device: FileShare {
                tag: tag(self.port),
                connection: connections.engine,
            },
            mount: self,
            process,
        })
    }
}

/// Opens a source, whose path has no symbolic links when it is chosen. A machine that can write
/// above it could replace it by a link to a directory that it must not see, at any time. So it is
/// opened once, and the open directory is served.
fn open_source(source: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    openat2(CWD, source, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS).map_err(|error| {
        match error {
            Errno::LOOP => io::Error::other("there is a symbolic link in its path now"),
            error => error.into(),
        }
    })
}

impl StartedMount {
    /// Returns the device for the engine, and what remains.
    pub(crate) fn split(self) -> (AttachedShare, ServedMount) {
        let device = AttachedShare {
            port: self.mount.port,
            share: self.device,
        };
        let served = ServedMount {
            mount: self.mount,
            process: self.process,
            relay: self.relay,
        };
        (device, served)
    }

    /// Attaches the device to the engine's machine.
    async fn attach(
        self,
        engine: &mut dyn Running,
        shares: &mut Shares,
        machine: &MachineState,
    ) -> Result<(), String> {
        let (device, served) = self.split();
        let attached = engine.attach(device).await;
        attached.map_err(|error| error.to_string())?;
        served.note(shares, machine);
        Ok(())
    }
}

/// A mount whose device is attached.
pub(crate) struct ServedMount {
    mount: AttachedMount,
    process: FileShareProcess,
    relay: Arc<HomeRelay>,
}

impl ServedMount {
    /// Adds the mount to those of the machine.
    pub(crate) fn note(self, shares: &mut Shares, machine: &MachineState) {
        machine.add_relay(tag(self.mount.port), self.relay);
        shares.add(self.mount, self.process);
    }
}

/// Attaches the devices of all wanted mounts to a machine that is about to boot. Returns those that
/// are not possible.
pub(crate) async fn attach_all(
    wanted: Vec<MountShare>,
    engine: &mut dyn Running,
    shares: &mut Shares,
    launch: &Launch,
    machine: &MachineState,
) -> Vec<MountProblem> {
    // All processes start before the first one is waited for.
    let started: Vec<_> = SharePort::all()
        .zip(wanted)
        .map(|(port, share)| {
            let target = share.target.clone();
            let mount = AttachedMount { port, share };
            let started = mount.start_reported(launch);
            (target, started)
        })
        .collect();
    let mut problems = Vec::new();
    for (path, started) in started {
        let attached = match started {
            Ok(started) => started.attach(engine, shares, machine).await,
            Err(problem) => Err(problem),
        };
        if let Err(problem) = attached {
            problems.push(MountProblem { path, problem });
        }
    }
    problems
}

impl AttachedMount {
    fn start_reported(self, launch: &Launch) -> Result<StartedMount, String> {
        let source = self.share.source.display().to_string();
        let started = self.start(launch);
        started.map_err(|error| format!("cannot share {source}: {error}"))
    }
}

/// The parts of a running machine that its mounts consist of.
pub(crate) struct Parts<'a> {
    pub engine: &'a mut dyn Running,
    pub shares: &'a mut Shares,
    pub opener: &'a Opener,
    pub launch: &'a Launch,
    pub machine: &'a MachineState,
}

/// Difference between the mounts that a machine has and those that it is to have.
#[derive(Debug, PartialEq, Eq)]
struct Difference {
    /// In the order in which they can be unmounted.
    removed: Vec<AttachedMount>,
    /// In the order in which they can be mounted.
    added: Vec<MountShare>,
}

impl Difference {
    /// A mount that is not `served` any more is attached again.
    fn between(
        attached: &[AttachedMount],
        served: &[SharePort],
        wanted: Vec<MountShare>,
    ) -> Difference {
        let (mut kept, mut added) = (Vec::new(), Vec::new());
        for share in wanted {
            let is_attached = attached
                .iter()
                .any(|it| it.share == share && served.contains(&it.port));
            let group = if is_attached { &mut kept } else { &mut added };
            group.push(share);
        }
        // A new mount would cover those below it, so these follow.
        let is_covered = |share: &MountShare, added: &[MountShare]| {
            let target = Path::new(&share.target);
            added.iter().any(|it| target.starts_with(&it.target))
        };
        let (covered, kept): (Vec<_>, Vec<_>) = kept
            .into_iter()
            .partition(|share| is_covered(share, &added));
        added.extend(covered);
        let order = |share: &MountShare| Path::new(&share.target).to_owned();
        added.sort_by_key(order);
        let mut removed: Vec<_> = attached
            .iter()
            .filter(|it| !kept.contains(&it.share) || !served.contains(&it.port))
            .cloned()
            .collect();
        removed.sort_by_key(|it| std::cmp::Reverse(order(&it.share)));
        Difference { removed, added }
    }
}

impl Parts<'_> {
    /// Makes `wanted` the mounts of a machine that is up.
    pub(crate) async fn replace(mut self, wanted: Vec<MountShare>) -> MountReply {
        let (attached, served) = (self.shares.attached(), self.shares.served());
        let Difference { removed, added } = Difference::between(&attached, &served, wanted.clone());
        if !removed.is_empty() {
            let tags = removed.iter().map(|it| tag(it.port)).collect();
            match self.ask_agent(MountRequest::Unmount(tags)).await {
                Ok(MountReply::Done(_)) => {}
                Ok(in_use @ MountReply::InUse(_)) => return in_use,
                Err(error) => {
                    return MountReply::InUse(MountProblem {
                        path: removed[0].share.target.clone(),
                        problem: error,
                    });
                }
            }
        }
        self.machine.set_wanted_mounts(wanted);
        for mount in removed {
            self.detach(mount).await;
        }
        let (mut problems, mut mounted) = (Vec::new(), Vec::new());
        for share in added {
            let path = share.target.clone();
            match self.attach(share).await {
                Ok(guest_share) => mounted.push(guest_share),
                Err(problem) => problems.push(MountProblem { path, problem }),
            }
        }
        if !mounted.is_empty() {
            let paths: Vec<_> = mounted.iter().map(|it| it.path.clone()).collect();
            match self.ask_agent(MountRequest::Mount(mounted)).await {
                Ok(MountReply::Done(found)) => problems.extend(found),
                Ok(MountReply::InUse(problem)) => problems.push(problem),
                Err(problem) => problems.extend(paths.into_iter().map(|path| MountProblem {
                    path,
                    problem: problem.clone(),
                })),
            }
        }
        // The next change tries again.
        for mount in self.shares.attached() {
            if problems.iter().any(|it| it.path == mount.share.target) {
                self.detach(mount).await;
            }
        }
        self.machine.set_mount_problems(problems.clone());
        MountReply::Done(problems)
    }

    /// Detaches a mount that the machine has unmounted. One that its kernel does not release keeps
    /// its port until the machine stops, and is not served any more: the machine must not reach a
    /// directory that it is not to have.
    async fn detach(&mut self, mount: AttachedMount) {
        let detached = self.engine.detach(mount.port).await;
        self.machine.remove_relay(&tag(mount.port));
        match detached {
            Ok(()) => self.shares.remove(mount.port),
            Err(error) => {
                tracing::warn!("cannot detach {}: {error}", mount.share.target);
                self.shares.end(mount.port);
            }
        }
    }

    async fn attach(&mut self, share: MountShare) -> Result<GuestShare, String> {
        let port = self.shares.free_port();
        let port = port.ok_or("the machine has released no port yet (restart it)")?;
        let mount = AttachedMount { port, share };
        let guest_share = mount.guest_share();
        let started = mount.start_reported(self.launch)?;
        started
            .attach(self.engine, self.shares, self.machine)
            .await?;
        Ok(guest_share)
    }

    async fn ask_agent(&mut self, request: MountRequest) -> Result<MountReply, String> {
        let asked = async {
            let mut stream = self.opener.open().await.map_err(FrameError::Io)?;
            frame::write(&mut stream, &Port::Mounts).await?;
            frame::write(&mut stream, &request).await?;
            frame::read(&mut stream).await
        };
        match timeout(AGENT_TIMEOUT, asked).await {
            Ok(reply) => reply.map_err(|error| format!("the machine does not answer: {error}")),
            Err(_) => Err("timed out waiting for the machine".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, process::Command};

    use super::*;
    use crate::file_share::path_of;

    #[test]
    fn a_source_is_opened_once_and_without_links() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let (source, other) = (root.join("above/source"), root.join("other"));
        for (directory, contents) in [(&source, "chosen"), (&other, "other")] {
            fs::create_dir_all(directory).unwrap();
            fs::write(directory.join("name"), contents).unwrap();
        }
        let opened = open_source(&source).unwrap();
        fs::rename(&source, root.join("moved")).unwrap();
        symlink(&other, &source).unwrap();
        // A process that is started as the server is.
        let mut server = Command::new("cat");
        server.arg("name").current_dir(path_of(opened.as_fd()));
        assert_eq!(server.output().unwrap().stdout, b"chosen");

        let is_link = |path: &Path| {
            let error = open_source(path).unwrap_err();
            error.to_string().contains("symbolic link")
        };
        assert!(is_link(&source));
        fs::create_dir(other.join("source")).unwrap();
        fs::remove_dir_all(root.join("above")).unwrap();
        symlink(&other, root.join("above")).unwrap();
        assert!(is_link(&source), "a link above it");
        let file = open_source(&root.join("moved/name")).unwrap_err();
        assert_eq!(file.kind(), io::ErrorKind::NotADirectory);
    }

    fn share(source: &str, target: &str) -> MountShare {
        MountShare {
            source: source.into(),
            target: target.to_owned(),
            read_only: false,
            hidden: Vec::new(),
        }
    }

    fn difference(
        attached: &[(&str, &str)],
        wanted: &[(&str, &str)],
    ) -> (Vec<String>, Vec<String>) {
        let attached: Vec<_> = SharePort::all()
            .zip(attached)
            .map(|(port, (source, target))| AttachedMount {
                port,
                share: share(source, target),
            })
            .collect();
        let wanted = wanted.iter().map(|(source, target)| share(source, target));
        let served: Vec<_> = SharePort::all().collect();
        let Difference { removed, added } =
            Difference::between(&attached, &served, wanted.collect());
        let removed = removed.into_iter().map(|it| it.share.target).collect();
        (removed, added.into_iter().map(|it| it.target).collect())
    }

    fn targets(removed: &[&str], added: &[&str]) -> (Vec<String>, Vec<String>) {
        let owned = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        (owned(removed), owned(added))
    }

    #[test]
    fn only_what_differs_is_changed() {
        let (a, b) = (("/1", "/a"), ("/2", "/b"));
        assert_eq!(difference(&[a, b], &[a, b]), targets(&[], &[]));
        assert_eq!(difference(&[a], &[a, b]), targets(&[], &["/b"]));
        assert_eq!(difference(&[a, b], &[b]), targets(&["/a"], &[]));
        let other = ("/3", "/a");
        assert_eq!(difference(&[a], &[other]), targets(&["/a"], &["/a"]));
    }

    #[test]
    fn a_mount_that_is_not_served_is_attached_again() {
        let attached = AttachedMount {
            port: SharePort::all().next().unwrap(),
            share: share("/1", "/a"),
        };
        let wanted = vec![attached.share.clone()];
        let difference = Difference::between(std::slice::from_ref(&attached), &[], wanted.clone());
        assert_eq!(difference.removed, [attached]);
        assert_eq!(difference.added, wanted);
    }

    #[test]
    fn mounts_in_others_are_mounted_after_them() {
        let (outer, inner) = (("/1", "/a"), ("/2", "/a/b"));
        assert_eq!(
            difference(&[], &[inner, outer]),
            targets(&[], &["/a", "/a/b"])
        );
        assert_eq!(
            difference(&[outer, inner], &[]),
            targets(&["/a/b", "/a"], &[])
        );
        let expected = targets(&["/a/b"], &["/a", "/a/b"]);
        assert_eq!(difference(&[inner], &[outer, inner]), expected);
    }
}
