//! The processes that serve directories of the host to the machine: its home, and its mounts.

use std::{collections::BTreeMap, future::pending, io, process::ExitStatus};

use container_engine::SharePort;
use container_file_share::{ShareReply, ShareRequest};
use container_protocol::{frame::FrameError, local::MountShare};
use futures::future::select_all;
use serde::{Deserialize, Serialize};

use crate::file_share::FileShareProcess;

/// The processes that serve directories of the host to the machine.
#[derive(Debug, Default)]
pub(crate) struct Shares {
    /// Absent if the home is not shared, or its process has ended.
    pub home: Option<FileShareProcess>,
    /// The mounts by their ports.
    mounts: BTreeMap<SharePort, ServedMount>,
}

#[derive(Debug)]
struct ServedMount {
    share: MountShare,
    /// Absent after it has ended.
    process: Option<FileShareProcess>,
}

/// A mount, and the port that its device is attached to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AttachedMount {
    pub port: SharePort,
    pub share: MountShare,
}

/// A process that has ended.
#[derive(Debug)]
pub(crate) enum LostShare {
    /// That of the home.
    Home(io::Result<ExitStatus>),
    /// That of a mount.
    Mount(MountShare, io::Result<ExitStatus>),
}

impl ServedMount {
    fn has_ended(&self) -> bool {
        self.process.is_none()
    }
}

impl Shares {
    /// Returns the shares of a machine that has no mounts yet.
    pub(crate) fn new(home: Option<FileShareProcess>) -> Shares {
        Shares {
            home,
            mounts: BTreeMap::new(),
        }
    }

    /// Adds a mount whose device is attached.
    pub(crate) fn add(&mut self, mount: AttachedMount, process: FileShareProcess) {
        let served = ServedMount {
            share: mount.share,
            process: Some(process),
        };
        self.mounts.insert(mount.port, served);
    }

    /// Removes a mount whose device is detached, and ends its process.
    pub(crate) fn remove(&mut self, port: SharePort) {
        self.mounts.remove(&port);
    }

    /// Ends the process of a mount whose device stays attached.
    pub(crate) fn end(&mut self, port: SharePort) {
        if let Some(mount) = self.mounts.get_mut(&port) {
            mount.process = None;
        }
    }

    /// Returns the ports of the mounts whose processes have not ended.
    pub(crate) fn served(&self) -> Vec<SharePort> {
        let served = self.mounts.iter().filter(|(_, mount)| !mount.has_ended());
        served.map(|(port, _)| *port).collect()
    }

    /// Returns the mounts whose devices are attached.
    pub(crate) fn attached(&self) -> Vec<AttachedMount> {
        let mounts = self.mounts.iter();
        mounts
            .map(|(port, mount)| AttachedMount {
                port: *port,
                share: mount.share.clone(),
            })
            .collect()
    }

    /// Returns a port without a device.
    pub(crate) fn free_port(&self) -> Option<SharePort> {
        SharePort::all().find(|port| !self.mounts.contains_key(port))
    }

    /// Sends a request to all processes. If one refuses to pause, the others continue. The reply
    /// has the paths of all lost files.
    pub(crate) async fn request(
        &mut self,
        request: ShareRequest,
    ) -> Result<ShareReply, FrameError> {
        let mut mounts = self.mounts.values();
        if request == ShareRequest::Check
            && let Some(mount) = mounts.find(|mount| mount.has_ended())
        {
            return Ok(ShareReply::Refused(format!(
                "the process that shares {} has ended (restart the machine)",
                mount.share.source.display()
            )));
        }
        let mut all_lost = Vec::new();
        let mut refusal = None;
        for process in self.processes() {
            match process.request(request).await? {
                ShareReply::Done { lost } => all_lost.extend(lost),
                ShareReply::Refused(reason) => {
                    refusal = Some(reason);
                    break;
                }
            }
        }
        let Some(reason) = refusal else {
            return Ok(ShareReply::Done { lost: all_lost });
        };
        if request == ShareRequest::Pause {
            for process in self.processes() {
                process.request(ShareRequest::Continue).await?;
            }
        }
        Ok(ShareReply::Refused(reason))
    }

    fn processes(&mut self) -> impl Iterator<Item = &mut FileShareProcess> {
        let mounts = self.mounts.values_mut();
        let mounts = mounts.filter_map(|mount| mount.process.as_mut());
        self.home.iter_mut().chain(mounts)
    }

    /// Waits until a process has ended. Cancel safe.
    pub(crate) async fn lost(&mut self) -> LostShare {
        let home = async {
            match &mut self.home {
                Some(home) => home.wait().await,
                None => pending().await,
            }
        };
        let waiting = self.mounts.iter_mut().filter_map(|(port, mount)| {
            let process = mount.process.as_mut()?;
            Some(Box::pin(async move { (*port, process.wait().await) }))
        });
        let waiting: Vec<_> = waiting.collect();
        let mounts = async {
            if waiting.is_empty() {
                return pending().await;
            }
            select_all(waiting).await.0
        };
        let (port, status) = tokio::select! {
            status = home => {
                self.home = None;
                return LostShare::Home(status);
            }
            ended = mounts => ended,
        };
        match self.mounts.get_mut(&port) {
            Some(mount) => {
                mount.process = None;
                LostShare::Mount(mount.share.clone(), status)
            }
            // Not reached: the process belongs to one of them.
            None => pending().await,
        }
    }
}
