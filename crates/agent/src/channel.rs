//! The byte stream to the host: a virtio-serial port (virtio 1.2, section 5.3 "Console Device",
//! multiport).

use std::{
    fs::{self, OpenOptions},
    io,
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures::{AsyncRead, AsyncWrite};

use crate::nonblocking_file::NonblockingFile;

/// Name of the port, set by the host.
const PORT_NAME: &str = "container.agent";

/// Number of attempts to find the port. Its driver may still be probing the device.
const ATTEMPTS: u32 = 500;

/// Directory that exists if the kernel has the port's driver.
const DRIVER: &str = "/sys/bus/virtio/drivers/virtio_console";

/// Number of attempts if the kernel has the driver. An emulated processor may have lost the
/// interrupt that announces the port; the host repeats a boot that makes no progress for a shorter
/// time than this.
const ATTEMPTS_WITH_DRIVER: u32 = 12_000;

/// Interval between the attempts.
const INTERVAL: Duration = Duration::from_millis(10);

/// The virtio-serial port to the host's runtime, open for reading and writing.
pub(crate) struct Channel {
    port: NonblockingFile,
}

impl Channel {
    /// Opens the port, waiting for it to appear: five seconds, or two minutes if the kernel has its
    /// driver.
    pub(crate) async fn open() -> io::Result<Channel> {
        let mut attempt = 0;
        while attempt < ATTEMPTS || attempt < ATTEMPTS_WITH_DRIVER && Path::new(DRIVER).exists() {
            attempt += 1;
            if let Some(device) = find_port()? {
                let port = OpenOptions::new().read(true).write(true).open(device)?;
                return Ok(Channel {
                    port: NonblockingFile::new(port.into())?,
                });
            }
            tokio::time::sleep(INTERVAL).await;
        }
        Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!(
                "virtio-serial port {PORT_NAME} not found (the kernel needs CONFIG_VIRTIO_PCI and \
                 CONFIG_VIRTIO_CONSOLE)"
            ),
        ))
    }
}

fn find_port() -> io::Result<Option<PathBuf>> {
    let ports = match fs::read_dir("/sys/class/virtio-ports") {
        Ok(ports) => ports,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    for port in ports {
        let port = port?;
        let name = fs::read_to_string(port.path().join("name")).unwrap_or_default();
        let device = PathBuf::from("/dev").join(port.file_name());
        if name.trim() == PORT_NAME && device.exists() {
            return Ok(Some(device));
        }
    }
    Ok(None)
}

impl AsyncRead for Channel {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.port.poll_read(context, buffer)
    }
}

impl AsyncWrite for Channel {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.port.poll_write(context, buffer)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
