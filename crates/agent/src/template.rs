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
    thread::{self, JoinHandle},
};

use container_protocol::{
    ChannelEvent, ChannelRequest,
    frame::{self, FrameError},
};
use tokio_util::compat::FuturesAsyncReadCompatExt;

use crate::{channel::Channel, clock, kernel_log, random};

/// All virtio devices.
const DEVICES: &str = "/sys/bus/virtio/devices";

/// The driver of virtio devices on the PCI bus. Its probe resets the device, after which the engine
/// shows the machine's values; a probe by the driver of the block device or network card would not.
const DRIVER: &str = "/sys/bus/pci/drivers/virtio-pci";

/// Types of virtio devices (virtio 1.2, section 5).
const NETWORK_CARD: u32 = 1;
const BLOCK_DEVICE: u32 = 2;
const FILE_SYSTEM: u32 = 26;

/// Types of the devices that differ between machines.
const RELEASED: [u32; 3] = [NETWORK_CARD, BLOCK_DEVICE, FILE_SYSTEM];

/// A device without a driver.
#[derive(Debug)]
struct Released {
    /// Type of the virtio device.
    kind: u32,
    /// Address on the PCI bus.
    address: OsString,
}

/// Error of becoming a template, or a machine.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TemplateError {
    /// The host could not be understood.
    #[error("cannot receive the host's choice of a machine: {0}")]
    Receive(FrameError),
    /// The host wants to resume a machine.
    #[error("cannot resume a machine: this virtual machine has not served one")]
    NoMachine,
    /// The host could not be answered.
    #[error("cannot answer the host: {0}")]
    Answer(FrameError),
}

/// Error of a device of the template that could not be probed again.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the device {}: {cause}", device.display())]
pub(crate) struct ProbeError {
    /// Address on the PCI bus.
    device: OsString,
    /// Error of the driver.
    cause: io::Error,
}

/// Waits until the host wants this virtual machine to serve a machine. Returns its devices.
pub(crate) async fn await_machine(channel: &mut Channel) -> Result<Devices, TemplateError> {
    let mut channel = channel.compat();
    let mut released = Vec::new();
    loop {
        match frame::read(&mut channel)
            .await
            .map_err(TemplateError::Receive)?
        {
            ChannelRequest::PrepareTemplate => {
                let event = match release(&mut released) {
                    Ok(()) => ChannelEvent::TemplateReady {
                        clock: clock::monotonic(),
                    },
                    Err(error) => ChannelEvent::Failed {
                        message: format!("cannot release the devices: {error}"),
                    },
                };
                frame::write(&mut channel, &event)
                    .await
                    .map_err(TemplateError::Answer)?;
            }
            ChannelRequest::Resume { .. } => return Err(TemplateError::NoMachine),
            ChannelRequest::Serve { entropy } => {
                // First: everything that follows may need random numbers.
                if let Err(error) = random::reseed(&entropy) {
                    kernel_log::error(&format!("cannot use the host's random bytes: {error}"));
                }
                return Ok(Devices::probe(released));
            }
        }
    }
}

/// Releases the devices that differ between machines, and adds them to `released`.
fn release(released: &mut Vec<Released>) -> io::Result<()> {
    for device in fs::read_dir(DEVICES)? {
        let device = device?.path();
        let kind = device_type(&device)?;
        if RELEASED.contains(&kind) {
            let address = pci_address(&device)?;
            write_address("unbind", &address)?;
            released.push(Released { kind, address });
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

/// The machine's devices. Those of a template are being probed, each on a thread of its own.
#[derive(Debug)]
pub(crate) struct Devices {
    probes: Vec<Probe>,
}

#[derive(Debug)]
struct Probe {
    device: Released,
    thread: JoinHandle<io::Result<()>>,
}

impl Devices {
    /// Lets the drivers probe devices that they have released.
    fn probe(released: Vec<Released>) -> Devices {
        let probe = |device: Released| {
            let address = device.address.clone();
            let thread = thread::spawn(move || write_address("bind", &address));
            Probe { device, thread }
        };
        Devices {
            probes: released.into_iter().map(probe).collect(),
        }
    }

    /// Waits until the disk can be mounted. Its file in `/dev` appears earlier.
    pub(crate) fn await_disk(&mut self) -> Result<(), ProbeError> {
        let is_disk = |probe: &mut Probe| probe.device.kind == BLOCK_DEVICE;
        self.probes
            .extract_if(.., is_disk)
            .try_for_each(Probe::join)
    }

    /// Takes the network card out of the devices.
    pub(crate) fn take_network_card(&mut self) -> Devices {
        let is_card = |probe: &mut Probe| probe.device.kind == NETWORK_CARD;
        Devices {
            probes: self.probes.extract_if(.., is_card).collect(),
        }
    }

    /// Waits until all devices can be used.
    pub(crate) fn await_all(self) -> Result<(), ProbeError> {
        self.probes.into_iter().try_for_each(Probe::join)
    }
}

impl Probe {
    fn join(self) -> Result<(), ProbeError> {
        let probed = self.thread.join();
        probed
            .unwrap_or_else(|_| Err(io::Error::other("the thread has panicked")))
            .map_err(|cause| ProbeError {
                device: self.device.address,
                cause,
            })
    }
}
