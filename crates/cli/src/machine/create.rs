//! `container machine create`

use std::{num::NonZeroU32, path::PathBuf};

use clap::Args;
use container_api::{BootChange, CallerEnvironment, CreateRequest};
use container_client::Client;
use container_machine::{DiskCapacity, HomeMount, KernelParameters, Memory, home_directory};
use container_protocol::PublishedPorts;

use crate::{
    failure::Failure,
    image::options::{FetchOptions, PlatformOptions},
    output,
    progress::{self, ProgressMode},
    values::{self, ImageName},
};

/// Make a machine from an image, and boot it.
///
/// The image is fetched from its registry. If it has an init system (/sbin/init) that runs, else a
/// built-in one. The machine gets a user of your name and shares your home directory. Its id is
/// printed when it is up. The first machine becomes the default one: the one that is meant where
/// none is named.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container machine create registry.example/debian-systemd:12 --name dev
  container machine create localhost:5000/busybox:1 --memory 2G --no-boot
  container machine create registry.example/alpine:3 --home-mount none
  container machine create registry.example/debian:12 --disk-size 20G")]
pub struct Create {
    /// The image: [REGISTRY/]REPOSITORY[:TAG][@DIGEST]
    image: ImageName,

    /// The machine's name; made from the image's where it is left out.
    #[arg(short, long)]
    name: Option<String>,

    /// Make it the default machine.
    #[arg(long)]
    set_default: bool,

    /// Do not boot it.
    #[arg(long)]
    no_boot: bool,

    /// Virtual CPUs; half of this computer's where it is left out, 4 at least.
    #[arg(long, value_name = "N", value_parser = values::cpus, allow_negative_numbers = true)]
    cpus: Option<NonZeroU32>,

    /// Memory, 1G at least (2G, 4096M); half of this computer's where it is left out.
    #[arg(long, value_name = "SIZE")]
    memory: Option<Memory>,

    /// What the disk can hold, 1G to 8T; 512G where it is left out. It takes space on this
    /// computer as it fills.
    #[arg(long, value_name = "SIZE")]
    disk_size: Option<DiskCapacity>,

    /// How the machine shares your home directory: rw, ro or none.
    #[arg(long, value_name = "MODE")]
    home_mount: Option<HomeMount>,

    /// Reach a port of the machine at a fixed place: [ADDRESS:]PORT:MACHINE_PORT[/udp].
    ///
    /// May be given more than once, and with ranges: 8000-8009:8000-8009. Without ADDRESS it is
    /// 127.0.0.1; with 0.0.0.0 other computers reach it as well. At the machine's own address (`container machine ls`) every port that
    /// something in it listens on is reached without this.
    #[arg(short, long, value_name = "PORTS")]
    publish: Vec<PublishedPorts>,

    /// Let the machine run machines of its own.
    #[arg(long)]
    virtualization: bool,

    /// Boot this kernel in place of the default one.
    #[arg(long, value_name = "PATH")]
    kernel: Option<PathBuf>,

    /// Parameters for the kernel, with spaces between; they come after ours.
    #[arg(long, value_name = "PARAMETERS", allow_hyphen_values = true)]
    kernel_args: Option<KernelParameters>,

    #[command(flatten)]
    platform: PlatformOptions,

    #[command(flatten)]
    fetch: FetchOptions,

    /// How progress is shown.
    #[arg(long, value_enum, default_value_t)]
    progress: ProgressMode,
}

impl Create {
    /// Makes the machine and prints its id.
    pub async fn carry_out(self, client: &Client) -> Result<(), Failure> {
        let mode = self.progress;
        let request = self.request()?;
        let given_up = "Given up: nothing is kept of the machine.";
        let created = progress::shown(mode, given_up, async |show| {
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
            scheme: self.fetch.scheme,
            home: home_directory().unwrap_or_default(),
            environment: CallerEnvironment::of_this_process(),
            max_concurrent_downloads: Some(self.fetch.max_concurrent_downloads),
            boot: BootChange {
                cpus: self.cpus,
                disk_capacity: self.disk_size,
                home_mount: self.home_mount,
                kernel: self.kernel.map(std::path::absolute).transpose()?,
                kernel_args: self.kernel_args,
                memory: self.memory,
                publish: (!self.publish.is_empty())
                    .then(|| self.publish.into_iter().flat_map(|it| it.0).collect()),
                virtualization: self.virtualization.then_some(true),
            },
            start: !self.no_boot,
            set_default: self.set_default,
        })
    }
}
