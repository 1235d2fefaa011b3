//! Assembles the parts of a virtual machine: kernel, shared home, network, channel and console.
//! Each has an end that the engine takes over, and one that the runtime keeps.

use std::{
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::{UnixDatagram, UnixStream as StdUnixStream},
    },
    path::PathBuf,
    sync::Arc,
};

use container_engine::{Channel, FileShare, Kernel, NetworkCard, VirtualMachine};
use container_kernel::Requirements;
use container_machine::create_private;
use container_network::{HeldSockets, MTU, Network, Settings};
use container_protocol::{Egress, PublishedPort};
use tokio::net::{UnixStream, unix::pipe};

use crate::{
    boot_error::BootError,
    file_share::{FileShareProcess, TAG, open_directory},
    held_files::HeldFiles,
    home_relay::HomeRelay,
    kernel_files::{KernelChoice, KernelFiles},
    launch::{HomeShare, Launch, NetworkLaunch},
    log::Log,
    shares::Shares,
    state::MachineState,
};

/// Name of the channel's virtio-serial port in the guest.
const CHANNEL: &str = "container.agent";

/// The runtime's ends of a virtual machine.
pub(crate) struct HostEnds {
    /// Serve the shared directories.
    pub shares: Shares,
    /// The machine's network; absent if only its disk is read.
    pub network: Option<Arc<Network>>,
    /// The byte stream to the agent.
    pub channel: UnixStream,
    /// Output of the kernel's console.
    pub console: pipe::Receiver,
    /// The kernel image, if it was created for this boot. Only the engine's start needs it.
    pub unpacked_kernel: Option<PathBuf>,
    /// The files that kernel and initramfs consist of. Absent if they may differ at the next boot.
    pub kernel_sources: Option<Vec<PathBuf>>,
}

/// Assembles the virtual machine of a launch, and starts the processes that serve it.
pub(crate) fn assemble(
    launch: &Launch,
    files: &mut HeldFiles,
    machine: &MachineState,
) -> Result<(VirtualMachine, HostEnds), BootError> {
    assemble_with(launch, machine, prepare_kernel(launch, files)?, None)
}

/// Does the same for a machine that is resumed, whose kernel is in its memory, and whose ports may
/// have been held.
pub(crate) fn assemble_resumed(
    launch: &Launch,
    machine: &MachineState,
    held: HeldSockets,
) -> Result<(VirtualMachine, HostEnds), BootError> {
    let kernel = Kernel {
        image: launch.kernel.clone(),
        initramfs: launch.initramfs(),
        parameters: launch.kernel_args.as_str().to_owned(),
    };
    let kernel_files = KernelFiles {
        kernel,
        unpacked: None,
        sources: None,
    };
    assemble_with(launch, machine, kernel_files, Some(held))
}

fn assemble_with(
    launch: &Launch,
    machine: &MachineState,
    kernel_files: KernelFiles,
    held: Option<HeldSockets>,
) -> Result<(VirtualMachine, HostEnds), BootError> {
    let settings = launch.run_settings();
    let (file_share, connections) = settings
        .and_then(|settings| settings.home.as_ref())
        .map(|home| share_home(launch, home))
        .transpose()?
        .unzip();
    let (engine_share, home) = connections.unzip();
    machine.clear_relays();
    if let Some(home) = home {
        machine.add_relay(TAG.to_owned(), home);
    }
    let (network, card) = settings
        .map(|settings| start_network(launch, &settings.network, machine, held))
        .transpose()?
        .unzip();
    let (channel, engine_channel) = create_channel().map_err(BootError::CreateChannel)?;
    let (console, engine_console) = create_console().map_err(BootError::CreateChannel)?;
    let virtual_machine = VirtualMachine {
        name: launch.id.to_string(),
        cpus: launch.cpus,
        memory: launch.memory,
        virtualization: launch.virtualization,
        kernel: kernel_files.kernel,
        disk: launch.disk.clone(),
        file_shares: engine_share.into_iter().collect(),
        network: card,
        channel: engine_channel,
        console: engine_console,
        engine_log: launch.engine_log(),
    };
    let host_ends = HostEnds {
        shares: Shares::new(file_share),
        network,
        channel,
        console,
        unpacked_kernel: kernel_files.unpacked,
        kernel_sources: kernel_files.sources,
    };
    Ok((virtual_machine, host_ends))
}

fn prepare_kernel(launch: &Launch, files: &mut HeldFiles) -> Result<KernelFiles, BootError> {
    let choice = KernelChoice {
        kernel: &launch.kernel,
        parameters: launch.kernel_args.as_str(),
        requirements: Requirements {
            shared_home: launch
                .run_settings()
                .is_some_and(|it| it.home.is_some() || !it.mounts.is_empty()),
            virtualization: launch.virtualization,
        },
    };
    choice.prepare(files, &launch.runtime_directory)
}

fn share_home(
    launch: &Launch,
    home: &HomeShare,
) -> Result<(FileShareProcess, (FileShare, Arc<HomeRelay>)), BootError> {
    let failed = |cause| BootError::Home {
        path: home.path.clone(),
        cause,
    };
    let log = Log::new(&launch.file_share_log());
    log.clear();
    let directory = open_directory(&home.path).map_err(failed)?;
    let (file_share, connections) =
        FileShareProcess::start(home, directory.as_fd(), log, &launch.runtime_directory)
            .map_err(failed)?;
    let engine_share = FileShare {
        tag: TAG.to_owned(),
        connection: connections.engine,
    };
    let home = HomeRelay::start(connections.agent).map_err(failed)?;
    Ok((file_share, (engine_share, Arc::new(home))))
}

/// Returns the settings of the machine's network.
pub(crate) fn network_settings(
    launch: &Launch,
    network: &NetworkLaunch,
    egress: Egress,
    published: Vec<PublishedPort>,
) -> Settings {
    Settings {
        id: launch.id.to_string(),
        address: network.address,
        policy: network.policy,
        egress,
        published,
        peer_directory: network.segment.clone(),
        name_server: network.name_server,
    }
}

fn start_network(
    launch: &Launch,
    network: &NetworkLaunch,
    machine: &MachineState,
    held: Option<HeldSockets>,
) -> Result<(Arc<Network>, NetworkCard), BootError> {
    let published = machine.published(&network.published);
    let start = || {
        create_private(&network.segment).map_err(io::Error::other)?;
        let (card, engine_card) = UnixDatagram::pair()?;
        let started = machine.start_network(|egress| {
            let settings = network_settings(launch, network, egress, published);
            match held {
                Some(held) => Network::take_over(card, settings, held),
                None => Network::start(card, settings),
            }
        });
        Ok((started?, engine_card))
    };
    let (started, engine_card) = start().map_err(BootError::Network)?;
    let card = NetworkCard {
        connection: engine_card.into(),
        address: container_network::mac_address(network.address.guest()),
        mtu: MTU,
    };
    Ok((started, card))
}

/// Creates the byte stream to the agent: the runtime's end, and the engine's.
pub(crate) fn create_channel() -> io::Result<(UnixStream, Channel)> {
    let (channel, engine_channel) = StdUnixStream::pair()?;
    channel.set_nonblocking(true)?;
    let engine_channel = Channel {
        connection: engine_channel.into(),
        name: CHANNEL.to_owned(),
    };
    Ok((UnixStream::from_std(channel)?, engine_channel))
}

/// Creates the pipe of the kernel's console: the runtime's end, and the engine's.
pub(crate) fn create_console() -> io::Result<(pipe::Receiver, OwnedFd)> {
    let (engine_console, console) = pipe::pipe()?;
    Ok((console, engine_console.into_blocking_fd()?))
}
