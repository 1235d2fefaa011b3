//! `container machine create`

use std::{num::NonZeroU32, path::PathBuf};

use clap::Args;
use container_api::{AllowChange, BootChange, CallerEnvironment, CreateRequest, KernelChoice};
use container_client::Client;
use container_machine::{
    DiskCapacity, ForwardedSocket, HomeMount, KernelParameters, Memory, RequestedMount,
    home_directory,
};
use container_protocol::{AllowRule, EgressMode, PublishedPorts};

use super::mounts;
use crate::{
    failure::Failure,
    options::{PlatformOptions, ProgressOptions, PullOptions},
    output, progress,
    values::{self, ImageName},
};

/// Create a machine from an image, and boot it.
///
/// The image is pulled from its registry. The machine boots the image's init system (/sbin/init),
/// or a built-in one. It has a user with your name and shares your home directory. Its id is
/// printed once it is running. The first machine becomes the default machine, which verbs use if no
/// machine is given.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container machine create registry.example/debian-systemd:12 --name dev
  container machine create localhost:5000/busybox:1 --memory 2G --no-boot
  container machine create registry.example/alpine:3 --home-mount none --mount .
  container machine create registry.example/debian:12 --disk-size 20G
  container machine create debian:12 --egress none --allow deb.debian.org
  container machine create debian:12 --isolated --mount .")]
pub(crate) struct Create {
    /// Image: [REGISTRY/]REPOSITORY[:TAG][@DIGEST]
    image: ImageName,

    /// Name of the machine; default: derived from the image's name.
    #[arg(short, long)]
    name: Option<String>,

    /// Make the machine the default machine.
    #[arg(long)]
    set_default: bool,

    /// Do not boot the machine.
    #[arg(long)]
    no_boot: bool,

    /// Ignore the login shell and the set-up script that are attached to the image.
    #[arg(long)]
    no_settings: bool,

    /// Number of virtual CPUs; default: half of the host's CPUs, at least 4.
    #[arg(long, value_name = "N", value_parser = values::cpus, allow_negative_numbers = true)]
    cpus: Option<NonZeroU32>,

    /// Memory (2G, 4096M), at least 1G; default: half of the host's memory.
    #[arg(long, value_name = "SIZE")]
    memory: Option<Memory>,

    /// Capacity of the disk, 1G to 8T; default: 512G. It takes space on the host only as it fills.
    #[arg(long, value_name = "SIZE")]
    disk_size: Option<DiskCapacity>,

    /// Access to your home directory: rw, ro or none.
    #[arg(long, value_name = "MODE")]
    home_mount: Option<HomeMount>,

    /// Give the machine nothing of the host but what is named with --mount, --socket, --allow and
    /// --publish.
    ///
    /// It has no shared home, no SSH agent, nothing of the caller's environment, and no network
    /// without a rule: neither the internet, nor private networks, the host and other machines.
    #[arg(long)]
    isolated: bool,

    /// Mounted directory of the host: SOURCE[:TARGET[:ro|rw]]; repeatable, at most 8.
    ///
    /// The default TARGET is the absolute path of SOURCE, the default mode rw. With `--home-mount
    /// none --mount .` the machine sees the current directory only.
    #[arg(long, value_name = "MOUNT")]
    mount: Vec<RequestedMount>,

    /// Destinations the machine may connect to: all, public (addresses) or none; default: all.
    #[arg(long, value_name = "MODE")]
    egress: Option<EgressMode>,

    /// Destination allowed beyond those of --egress: NAME[:PORT] or ADDRESS[/PREFIX][:PORT];
    /// repeatable.
    ///
    /// *.example.com is every name below example.com. A name is allowed at the addresses that the
    /// machine's name server has given for it.
    #[arg(long, value_name = "RULE")]
    allow: Vec<AllowRule>,

    /// Published port of the machine: [ADDRESS:]PORT:MACHINE_PORT[/udp]; repeatable.
    ///
    /// Ranges are allowed: 8000-8009:8000-8009. The default ADDRESS is 127.0.0.1; with 0.0.0.0 the
    /// port can be reached from other hosts. At the machine's own address (`container machine ls`),
    /// every port with a listener can be reached without publishing it.
    #[arg(short, long, value_name = "PORTS")]
    publish: Vec<PublishedPorts>,

    /// Forwarded Unix socket: MACHINE_PATH[:HOST_PATH], or host:HOST_PATH:MACHINE_PATH; repeatable.
    ///
    /// The first form lets programs on the host connect to a socket of the machine. `container
    /// machine inspect` shows the path on the host; the default is in the machine's runtime
    /// directory. The second form lets programs in the machine connect to a socket of the host.
    #[arg(long, value_name = "SOCKET")]
    socket: Vec<ForwardedSocket>,

    /// Enable nested virtualization: virtual machines in the machine.
    #[arg(long)]
    virtualization: bool,

    /// Kernel image; default: the host's default kernel.
    #[arg(long, value_name = "PATH")]
    kernel: Option<PathBuf>,

    /// Additional kernel parameters, separated by spaces.
    #[arg(long, value_name = "PARAMETERS", allow_hyphen_values = true)]
    kernel_args: Option<KernelParameters>,

    #[command(flatten)]
    platform: PlatformOptions,

    #[command(flatten)]
    pull: PullOptions,

    #[command(flatten)]
    progress: ProgressOptions,
}

impl Create {
    /// Creates the machine and prints its id.
    pub(crate) async fn run(self, client: &Client) -> Result<(), Failure> {
        let mode = self.progress.mode;
        let request = self.request()?;
        let cancelled = "Cancelled; no machine was created.";
        let created = progress::show_while(mode, cancelled, async |show| {
            client.create(&request, show).await
        });
        output::line(created.await?.id)
    }

    fn request(self) -> Result<CreateRequest, Failure> {
        let platform = self.platform.platform();
        Ok(CreateRequest {
            image: self.image.0,
            name: self.name,
            platform,
            scheme: self.pull.registry.scheme,
            home: home_directory().unwrap_or_default(),
            environment: CallerEnvironment::from_process(),
            max_concurrent_downloads: Some(self.pull.max_concurrent_downloads),
            boot: BootChange {
                allow: AllowChange {
                    added: self.allow,
                    ..AllowChange::default()
                },
                cpus: self.cpus,
                disk_capacity: self.disk_size,
                egress: self.egress,
                home_mount: self.home_mount,
                isolated: self.isolated.then_some(true),
                kernel: self
                    .kernel
                    .as_deref()
                    .map(values::kernel_path)
                    .transpose()?
                    .map(KernelChoice::Image),
                kernel_args: self.kernel_args,
                memory: self.memory,
                mounts: mounts::added(&self.mount)?,
                idle_suspend: None,
                private_home: None,
                publish: (!self.publish.is_empty())
                    .then(|| self.publish.into_iter().flat_map(|it| it.0).collect()),
                sockets: (!self.socket.is_empty()).then_some(self.socket),
                virtualization: self.virtualization.then_some(true),
            },
            no_settings: self.no_settings,
            start: !self.no_boot,
            set_default: self.set_default,
        })
    }
}
