//! `container machine create`

use std::{num::NonZeroU32, path::PathBuf};

use clap::Args;
use container_api::{BootChange, CreateRequest, Progress};
use container_client::Client;
use container_machine::{HomeMount, Memory, home_directory};

use crate::{
    failure::Failure,
    output,
    progress::{ProgressDisplay, ProgressMode},
};

/// Make a machine from an image, and boot it.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  container machine create alpine:latest --name dev\n  container machine create localhost:5000/debian-systemd:12 --cpus 2 --memory 2G --no-boot"
)]
pub struct Create {
    /// The image: [REGISTRY/]REPOSITORY[:TAG][@DIGEST].
    image: String,

    /// The machine's name; made from the image's where it is left out.
    #[arg(short, long)]
    name: Option<String>,

    /// Make it the default machine.
    #[arg(long)]
    set_default: bool,

    /// Do not boot it.
    #[arg(long)]
    no_boot: bool,

    /// Virtual CPUs.
    #[arg(long, value_name = "N")]
    cpus: Option<NonZeroU32>,

    /// Memory, 1G at least (2G, 4096M).
    #[arg(long, value_name = "SIZE")]
    memory: Option<Memory>,

    /// How the machine shares your home directory: rw, ro or none.
    #[arg(long, value_name = "MODE")]
    home_mount: Option<HomeMount>,

    /// Let the machine run machines of its own.
    #[arg(long)]
    virtualization: bool,

    /// Boot this kernel in place of the default one.
    #[arg(long, value_name = "PATH")]
    kernel: Option<PathBuf>,

    /// The image's architecture (amd64, arm64).
    #[arg(short, long)]
    arch: Option<String>,

    /// The image's operating system.
    #[arg(long)]
    os: Option<String>,

    /// The image's platform, OS/ARCH[/VARIANT]; wins over --os and --arch.
    #[arg(long)]
    platform: Option<String>,

    /// How to reach the registry: http, https, or auto (http on loopback and private names).
    #[arg(long, value_name = "SCHEME")]
    scheme: Option<String>,

    /// How progress is shown.
    #[arg(long, value_enum, default_value_t)]
    progress: ProgressMode,

    /// Layers fetched at once.
    #[arg(long, value_name = "N", default_value_t = 3)]
    max_concurrent_downloads: u32,
}

impl Create {
    /// Makes the machine and prints its id.
    pub async fn carry_out(self, client: &Client) -> Result<(), Failure> {
        let mut display = ProgressDisplay::new(self.progress);
        let request = self.request()?;
        let mut show = |progress: Progress| display.show(&progress);
        let created = tokio::select! {
            created = client.create(&request, &mut show) => Some(created),
            _ = tokio::signal::ctrl_c() => None,
        };
        drop(display);
        let Some(created) = created else {
            output::note("Given up: nothing is kept of the machine.");
            std::process::exit(130);
        };
        output::line(created?.id)
    }

    fn request(self) -> Result<CreateRequest, Failure> {
        let platform = self.platform.or(match (self.os, self.arch) {
            (None, None) => None,
            (os, arch) => Some(format!(
                "{}/{}",
                os.as_deref().unwrap_or("linux"),
                arch.as_deref().unwrap_or(std::env::consts::ARCH)
            )),
        });
        Ok(CreateRequest {
            image: self.image,
            name: self.name,
            platform,
            scheme: self.scheme,
            home: home_directory().unwrap_or_default(),
            max_concurrent_downloads: Some(self.max_concurrent_downloads),
            boot: BootChange {
                cpus: self.cpus,
                home_mount: self.home_mount,
                kernel: self.kernel.map(std::path::absolute).transpose()?,
                memory: self.memory,
                virtualization: self.virtualization.then_some(true),
            },
            start: !self.no_boot,
            set_default: self.set_default,
        })
    }
}
