//! Directories of the host that the machine mounts besides its home.
//!
//! Each is mounted twice: in the agent's mount namespace, for what the agent does with it, and in
//! that of init, which its programs see. Those of the boot were mounted before init got its own.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use container_protocol::{
    GuestShare, HostPort, MountProblem, MountReply, MountRequest, frame,
    mux::{Opener, Stream},
};
use nix::{
    errno::Errno,
    mount::{MntFlags, umount2},
    sched::{CloneFlags, setns, unshare},
};
use tokio::{
    io::AsyncReadExt,
    sync::{Mutex as AsyncMutex, mpsc},
    task::AbortHandle,
};

use crate::{
    home,
    init::InitProcess,
    kernel_log,
    machine::{GuestRoot, mounts},
    namespace_thread,
};

/// The mounts of a machine whose init runs.
pub(crate) struct HostMounts {
    init: InitProcess,
    mounted: AsyncMutex<Vec<GuestShare>>,
    served: Mutex<Served>,
}

/// What serves the file shares of the mounts.
#[derive(Default)]
struct Served {
    /// Opens streams to the host, and is kept until the last change has been repeated; absent while
    /// the machine is suspended.
    host: Option<(Opener, mpsc::Sender<()>)>,
    tasks: HashMap<String, AbortHandle>,
}

/// Serves the file shares of the mounts until this is dropped.
pub(crate) struct Serving(Arc<HostMounts>);

impl Drop for Serving {
    fn drop(&mut self) {
        let mut served = self.0.served();
        served.host = None;
        for (_, task) in served.tasks.drain() {
            task.abort();
        }
    }
}

/// A mount cannot be removed.
struct InUse(MountProblem);

impl HostMounts {
    /// Returns the mounts of a machine whose boot has mounted these.
    pub(crate) fn new(init: InitProcess, mounted: Vec<GuestShare>) -> HostMounts {
        HostMounts {
            init,
            mounted: AsyncMutex::new(mounted),
            served: Mutex::default(),
        }
    }

    fn served(&self) -> MutexGuard<'_, Served> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves the file shares of the mounts, also of later ones. `alive` is kept until the last
    /// change has been repeated.
    pub(crate) async fn serve_shares(
        self: &Arc<HostMounts>,
        opener: Opener,
        alive: mpsc::Sender<()>,
    ) -> Serving {
        let mounted = self.mounted.lock().await;
        self.served().host = Some((opener, alive));
        for share in mounted.iter() {
            self.serve_share(share);
        }
        Serving(Arc::clone(self))
    }

    fn serve_share(&self, share: &GuestShare) {
        let mut served = self.served();
        let Some((opener, alive)) = served.host.clone() else {
            return;
        };
        let port = HostPort::Mount(share.tag.clone());
        let serving = home::serve_file_share(share.clone(), port, opener, alive);
        let task = tokio::spawn(serving).abort_handle();
        served.tasks.insert(share.tag.clone(), task);
    }

    /// Serves one stream of [`Port::Mounts`](container_protocol::Port::Mounts).
    pub(crate) async fn serve(&self, mut stream: Stream) {
        let Ok(request) = frame::read::<MountRequest>(&mut stream).await else {
            return;
        };
        let mut mounted = self.mounted.lock().await;
        let reply = match request {
            MountRequest::Mount(shares) => MountReply::Done(self.mount(shares, &mut mounted).await),
            MountRequest::Unmount(tags) => match self.unmount(&tags, &mut mounted).await {
                Ok(()) => MountReply::Done(Vec::new()),
                Err(InUse(problem)) => MountReply::InUse(problem),
            },
        };
        drop(mounted);
        if frame::write(&mut stream, &reply).await.is_ok() {
            // The host closes the stream when it has read the reply.
            let _ = stream.read_u8().await;
        }
    }

    async fn mount(
        &self,
        shares: Vec<GuestShare>,
        mounted: &mut Vec<GuestShare>,
    ) -> Vec<MountProblem> {
        let mut problems = Vec::new();
        for share in shares {
            match self.mount_one(&share).await {
                Ok(()) => {
                    self.serve_share(&share);
                    mounted.push(share);
                }
                Err(error) => problems.push(MountProblem {
                    path: share.path,
                    problem: error.to_string(),
                }),
            }
        }
        problems
    }

    async fn mount_one(&self, share: &GuestShare) -> io::Result<()> {
        mounts::mount_when_found(&GuestRoot::open()?, share).await?;
        let seen = self.mount_in_machine(share.clone()).await;
        if seen.is_err() {
            unmount_in_agent(&share.tag);
        }
        seen
    }

    async fn mount_in_machine(&self, share: GuestShare) -> io::Result<()> {
        self.in_machine(move || mounts::mount_share_at_root(&share))
            .await
    }

    /// Runs `work` in the mount namespace of init.
    async fn in_machine<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let namespace = File::open(format!("/proc/{}/ns/mnt", self.init.pid))?;
        namespace_thread::run(move || {
            // The thread shares its root directory with others before.
            unshare(CloneFlags::CLONE_FS)?;
            setns(namespace, CloneFlags::CLONE_NEWNS)?;
            work()
        })
        .await
    }

    async fn unmount(&self, tags: &[String], mounted: &mut Vec<GuestShare>) -> Result<(), InUse> {
        let shares = mounted.iter().filter(|share| tags.contains(&share.tag));
        let shares: HashMap<&str, &GuestShare> =
            shares.map(|share| (share.tag.as_str(), share)).collect();
        let in_order = tags
            .iter()
            .filter_map(|tag| shares.get(tag.as_str()).copied());
        let mut unmounted: Vec<&GuestShare> = Vec::new();
        for share in in_order {
            if let Err(error) = self.unmount_in_machine(&share.tag).await {
                // The deepest was unmounted first.
                for share in unmounted.into_iter().rev() {
                    if let Err(error) = self.mount_in_machine(share.clone()).await {
                        kernel_log::error(&format!("cannot mount {} again: {error}", share.path));
                    }
                }
                return Err(InUse(MountProblem {
                    path: share.path.clone(),
                    problem: error.to_string(),
                }));
            }
            unmounted.push(share);
        }
        for tag in tags {
            if let Some(task) = self.served().tasks.remove(tag) {
                task.abort();
            }
            unmount_in_agent(tag);
        }
        mounted.retain(|share| !tags.contains(&share.tag));
        Ok(())
    }

    /// Unmounts a share wherever the machine's init sees it.
    async fn unmount_in_machine(&self, tag: &str) -> io::Result<()> {
        let mounts = fs::read_to_string(format!("/proc/{}/mounts", self.init.pid))?;
        let paths = mounts::mount_points(&mounts, tag);
        self.in_machine(move || unmount_all(paths)).await
    }
}

fn unmount_all(paths: Vec<PathBuf>) -> io::Result<()> {
    // Later mounts may cover earlier ones.
    for path in paths.iter().rev() {
        match umount2(path, MntFlags::empty()) {
            // The machine has unmounted it meanwhile.
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
            Err(Errno::EBUSY) => {
                return Err(io::Error::other(
                    "programs in the machine use it (end them, such as a shell whose current \
                     directory is there)",
                ));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Unmounts a share in the agent's mount namespace, as soon as nothing uses it.
fn unmount_in_agent(tag: &str) {
    // Not /proc/self: the first thread's root may differ.
    let all = fs::read_to_string("/proc/thread-self/mounts").unwrap_or_default();
    for path in mounts::mount_points(&all, tag).iter().rev() {
        if let Err(error) = umount2(path, MntFlags::MNT_DETACH) {
            kernel_log::error(&format!("cannot unmount {}: {error}", path.display()));
        }
    }
}
