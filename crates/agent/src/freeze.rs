//! Freezes the machine's disk while the host makes a layer of it (ioctl_fs(2), `FIFREEZE`).

use std::{
    fs::File,
    io,
    os::fd::AsRawFd,
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::Duration,
};

use container_protocol::{FreezeReply, frame, mux::Stream};
use nix::libc::c_int;
use tokio::{io::AsyncReadExt, sync::oneshot};

use crate::{kernel_log, paths::MACHINE};

/// Time after which the disk is thawed, whatever the host does.
const FREEZE_LIMIT: Duration = Duration::from_secs(10);

/// Serves one stream that the host opened: freezes the disk until the stream ends.
pub(crate) async fn serve(mut stream: Stream) {
    let (frozen, is_frozen) = oneshot::channel();
    let (end, has_ended) = channel();
    // A thread of its own: while the disk is frozen, the agent's other threads may have to wait for
    // it.
    let started = thread::Builder::new()
        .name("freeze".to_owned())
        .spawn(move || freeze(frozen, &has_ended));
    let reply = match started {
        Ok(_) => is_frozen.await.unwrap_or(FreezeReply::Frozen),
        Err(error) => FreezeReply::Failed(error.to_string()),
    };
    if frame::write(&mut stream, &reply).await.is_ok() {
        // The host sends nothing, and closes the stream.
        let _ = stream.read_u8().await;
    }
    drop(end);
}

/// Freezes the disk, reports that, and thaws the disk at the end.
fn freeze(report: oneshot::Sender<FreezeReply>, end: &Receiver<()>) {
    let disk = File::open(MACHINE).and_then(|disk| {
        // Most of the writing happens before anything has to wait.
        rustix::fs::syncfs(&disk)?;
        freeze_file_system(&disk)?;
        Ok(disk)
    });
    let (reply, disk) = match disk {
        Ok(disk) => (FreezeReply::Frozen, Some(disk)),
        Err(error) => (FreezeReply::Failed(error.to_string()), None),
    };
    // Fails if the stream has ended.
    let _ = report.send(reply);
    let Some(disk) = disk else { return };
    if let Err(RecvTimeoutError::Timeout) = end.recv_timeout(FREEZE_LIMIT) {
        kernel_log::error("timed out waiting for the host to take a snapshot of the disk");
    }
    if let Err(error) = thaw_file_system(&disk) {
        kernel_log::error(&format!("cannot thaw the machine's disk: {error}"));
    }
}

/// Requests that neither nix nor rustix has (linux/fs.h).
mod ioctl {
    use super::c_int;

    nix::ioctl_readwrite!(fifreeze, b'X', 119, c_int);
    nix::ioctl_readwrite!(fithaw, b'X', 120, c_int);
}

#[expect(unsafe_code, reason = "an ioctl")]
fn freeze_file_system(disk: &File) -> io::Result<()> {
    // SAFETY: The kernel ignores the argument of this request.
    unsafe { ioctl::fifreeze(disk.as_raw_fd(), std::ptr::null_mut()) }?;
    Ok(())
}

#[expect(unsafe_code, reason = "an ioctl")]
fn thaw_file_system(disk: &File) -> io::Result<()> {
    // SAFETY: As above.
    unsafe { ioctl::fithaw(disk.as_raw_fd(), std::ptr::null_mut()) }?;
    Ok(())
}
