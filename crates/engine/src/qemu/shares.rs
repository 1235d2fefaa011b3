//! Attaches file shares to the machine of a QEMU process, and detaches them.
//!
//! A share is a device behind one of the ports of the command line. Its connection is passed over
//! the control socket.

use std::{io, os::fd::AsFd, time::Duration};

use qapi::qmp;
use tokio::time::{Instant, sleep};

use super::{
    command_line::{SHARE_DEVICE, SHARE_QUEUE, port_id},
    control::Control,
};
use crate::{
    interface::ShareError,
    virtual_machine::{AttachedShare, SharePort},
};

/// Timeout for the guest to release a device.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(20);

/// Interval at which QEMU is asked whether the guest has released a device.
const RELEASE_INTERVAL: Duration = Duration::from_millis(20);

/// Directory of the devices with an id in QEMU's object model.
const DEVICES: &str = "/machine/peripheral";

impl Control {
    /// Attaches a share to a port that is free.
    pub(super) async fn attach(&self, attached: AttachedShare) -> io::Result<()> {
        let AttachedShare { port, share } = attached;
        let (device, stream) = (device_id(port), stream_id(port));
        let fdname = stream.clone();
        self.pass(share.connection.as_fd(), qmp::getfd { fdname })
            .await?;
        self.execute(qmp::chardev_add {
            id: stream.clone(),
            backend: connection(&stream),
        })
        .await?;
        let properties = [
            ("chardev".to_owned(), stream.clone().into()),
            ("tag".to_owned(), share.tag.into()),
            ("queue-size".to_owned(), SHARE_QUEUE.into()),
        ];
        let added = qmp::device_add::new(SHARE_DEVICE, device, port_id(port), properties);
        let attached = self.execute(added).await;
        if attached.is_err() {
            // Without its removal the id would stay in use.
            let _ = self.execute(qmp::chardev_remove { id: stream }).await;
        }
        attached
    }

    /// Detaches the share at a port. A port that has none is left alone.
    pub(super) async fn detach(&self, port: SharePort) -> Result<(), ShareError> {
        let failed = |error: io::Error| ShareError::Engine(error.to_string());
        let (id, stream) = (device_id(port), stream_id(port));
        let deadline = Instant::now() + RELEASE_TIMEOUT;
        if self.has_device(&id).await.map_err(failed)? {
            let deleted = self.execute(qmp::device_del { id: id.clone() }).await;
            // Refused while an earlier request is pending.
            if let Err(error) = deleted {
                tracing::warn!("cannot ask the guest to release {id}: {error}");
            }
        }
        while self.has_device(&id).await.map_err(failed)? {
            if Instant::now() > deadline {
                return Err(ShareError::InUse);
            }
            sleep(RELEASE_INTERVAL).await;
        }
        let removed = self.execute(qmp::chardev_remove { id: stream }).await;
        removed.map_err(failed)
    }

    async fn has_device(&self, id: &str) -> io::Result<bool> {
        let path = DEVICES.to_owned();
        let devices = self.ask(qmp::qom_list { path }).await?;
        Ok(devices.iter().any(|device| device.name == id))
    }
}

fn device_id(port: SharePort) -> String {
    format!("attached{}", port.number())
}

fn stream_id(port: SharePort) -> String {
    format!("attached-stream{}", port.number())
}

/// Returns the back end of a character device that is a connection with this name.
fn connection(name: &str) -> qmp::ChardevBackend {
    let address = qmp::FdSocketAddress {
        str: name.to_owned(),
    };
    let socket = qmp::ChardevSocket {
        base: qmp::ChardevCommon::default(),
        addr: qmp::SocketAddressLegacy::fd(qmp::FdSocketAddressWrapper { data: address }),
        server: Some(false),
        wait: None,
        nodelay: None,
        reconnect: None,
        telnet: None,
        tn3270: None,
        tls_authz: None,
        tls_creds: None,
        websocket: None,
    };
    qmp::ChardevBackend::socket(qmp::ChardevSocketWrapper { data: socket })
}
