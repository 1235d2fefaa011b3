//! Expires names and attributes of the home that the kernel has cached (`guest/patches`).

use std::{fmt::Write as _, fs, io, path::Path, thread, time::Duration};

/// Directories of the kernel's virtio-fs devices.
const DEVICES: &str = "/sys/fs/virtiofs";

/// Number of node ids in a write, which must fit a page.
const MAX_NODES: usize = 128;

/// Interval at which a write is repeated while a device is being added or removed.
const RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// Expires what is cached of files and directories, and of the files in the directories. `tag` is
/// that of the home's device.
pub(super) fn expire(tag: &str, nodes: &[u64]) -> io::Result<()> {
    for device in fs::read_dir(DEVICES)? {
        let device = device?.path();
        if fs::read_to_string(device.join("tag"))?.trim_end() != tag {
            continue;
        }
        for nodes in nodes.chunks(MAX_NODES) {
            let mut text = String::new();
            for node in nodes {
                let _ = write!(text, "{node} ");
            }
            write_when_possible(&device.join("expire"), &text)?;
        }
        return Ok(());
    }
    Err(io::ErrorKind::NotFound.into())
}

fn write_when_possible(path: &Path, text: &str) -> io::Result<()> {
    loop {
        match fs::write(path, text) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                thread::sleep(RETRY_INTERVAL);
            }
            other => return other,
        }
    }
}
