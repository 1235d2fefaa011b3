//! The time before this virtual machine belongs to a machine.
//!
//! The host may save the virtual machine while the agent waits for [`ChannelRequest::Serve`], as a
//! template, and restore it for any number of machines. Nothing of a machine may be in memory then.
//! The drivers remember properties of the devices that they have probed, such as the capacity of
//! the disk and the address of the network card, and these would be the template's. So they release
//! the devices before the virtual machine is saved, and probe them again when it serves a machine.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    thread,
};

use container_protocol::{
    ChannelEvent, ChannelRequest,
    frame::{self, FrameError},
};
use tokio_util::compat::FuturesAsyncReadCompatExt;

use crate::{channel::Channel, kernel_log, random};

/// All virtio devices.
const DEVICES: &str = "/sys/bus/virtio/devices";

/// The driver of virtio devices on the PCI bus. Its probe resets the device, after which the engine
/// shows the machine's values; a probe by the driver of the block device or network card would not.
const DRIVER: &str = "/sys/bus/pci/drivers/virtio-pci";

/// Types of the devices that differ between machines: network card, block device and file system
/// (virtio 1.2, section 5).
const RELEASED: [u32; 3] = [1, 2, 26];

/// Error of becoming a template, or a machine.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TemplateError {
    /// The host could not be understood.
    #[error("cannot receive the host's choice of a machine: {0}")]
    Receive(FrameError),
    /// The host could not be answered.
    #[error("cannot answer the host: {0}")]
    Answer(FrameError),
    /// A device of the template could not be probed again.
    #[error("cannot start the device {}: {cause}", device.display())]
    Probe {
        /// Address on the PCI bus.
        device: OsString,
        /// Error of the driver.
        cause: io::Error,
    },
}

/// Waits until the host wants this virtual machine to serve a machine.
pub(crate) async fn await_machine(channel: &mut Channel) -> Result<(), TemplateError> {
    let mut channel = channel.compat();
    let mut released = Vec::new();
    loop {
        match frame::read(&mut channel)
            .await
            .map_err(TemplateError::Receive)?
        {
            ChannelRequest::PrepareTemplate => {
                let event = match release(&mut released) {
                    Ok(()) => ChannelEvent::TemplateReady,
                    Err(error) => ChannelEvent::Failed {
                        message: format!("cannot release the devices: {error}"),
                    },
                };
                frame::write(&mut channel, &event)
                    .await
                    .map_err(TemplateError::Answer)?;
            }
            ChannelRequest::Serve { entropy } => {
                // First: everything that follows may need random numbers.
                if let Err(error) = random::reseed(&entropy) {
                    kernel_log::error(&format!("cannot use the host's random bytes: {error}"));
                }
                return probe_all(&released);
            }
        }
    }
}

/// Releases the devices that differ between machines, and adds their addresses to `released`.
fn release(released: &mut Vec<OsString>) -> io::Result<()> {
    for device in fs::read_dir(DEVICES)? {
        let device = device?.path();
        if RELEASED.contains(&device_type(&device)?) {
            let address = pci_address(&device)?;
            write_address("unbind", &address)?;
            released.push(address);
        }
    }
    Ok(())
}

/// Reads the type of a virtio device, which sysfs shows as `0x0002`.
fn device_type(device: &Path) -> io::Result<u32> {
    let text = fs::read_to_string(device.join("device"))?;
    let digits = text.trim().trim_start_matches("0x");
    u32::from_str_radix(digits, 16).map_err(io::Error::other)
}

fn pci_address(device: &Path) -> io::Result<OsString> {
    let real = fs::canonicalize(device)?;
    let parent = real.parent().and_then(Path::file_name);
    parent
        .map(OsString::from)
        .ok_or_else(|| io::Error::other(format!("{} is not on the PCI bus", device.display())))
}

fn write_address(file: &str, address: &OsString) -> io::Result<()> {
    fs::write(PathBuf::from(DRIVER).join(file), address.as_encoded_bytes())
}

/// Lets the drivers probe the released devices, all at once.
fn probe_all(released: &[OsString]) -> Result<(), TemplateError> {
    thread::scope(|scope| {
        let probe = |device| scope.spawn(move || write_address("bind", device));
        let probes: Vec<_> = released
            .iter()
            .map(|device| (device, probe(device)))
            .collect();
        for (device, probe) in probes {
            let probed = probe
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the thread has panicked")));
            probed.map_err(|cause| TemplateError::Probe {
                device: device.clone(),
                cause,
            })?;
        }
        Ok(())
    })
}
