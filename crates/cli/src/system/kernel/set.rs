//! `container system kernel set`

use clap::{ArgGroup, Args};
use container_api::{Progress, RecommendedKernel, Step};
use container_client::Client;
use container_kernel::{
    FetchedFile, KernelName, KernelSource, Kernels, Sha256Digest, extract, fetch,
};

use crate::{failure::Failure, options::ProgressOptions, output, progress::show_while};

/// Choose the default kernel, adding it first if it is new.
///
/// A kernel is an ELF file (vmlinux) or a bzImage (vmlinuz), by itself or in a tar archive, plain
/// or compressed with gzip, xz or zstd. A URL needs a digest. Modules are taken from lib/modules
/// around the kernel, or on this host.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("what").required(true).multiple(true)
        .args(["chosen", "binary", "tar", "recommended"]),
    after_long_help = "\
Examples:
  container system kernel set debian
  container system kernel set --binary /boot/vmlinuz-6.1.0-40-amd64
  container system kernel set --binary https://example.com/vmlinux \\
    --digest sha256:5e1d0c…
  container system kernel set --tar kata.tar.xz --binary opt/kata/vmlinux
  container system kernel set --recommended"
)]
pub(crate) struct Set {
    /// Name of an existing kernel.
    #[arg(value_name = "NAME", conflicts_with_all = ["binary", "tar", "recommended"])]
    chosen: Option<KernelName>,

    /// Path or URL of a kernel; with --tar, its path in the archive.
    #[arg(long, value_name = "PATH|URL")]
    binary: Option<String>,

    /// Path or URL of an archive with the kernel.
    #[arg(long, value_name = "PATH|URL", requires = "binary")]
    tar: Option<String>,

    /// Expected digest of the file: `sha256:` and 64 hexadecimal digits.
    #[arg(long, value_name = "DIGEST")]
    digest: Option<Sha256Digest>,

    /// Use the kernel in section [kernel] of config.toml.
    #[arg(long, conflicts_with_all = ["binary", "tar", "digest"])]
    recommended: bool,

    /// Name of the new kernel; default: its file name.
    #[arg(long, conflicts_with = "chosen")]
    name: Option<KernelName>,

    #[command(flatten)]
    progress: ProgressOptions,
}

impl Set {
    pub(crate) async fn run(self, kernels: &Kernels, build: &str) -> Result<(), Failure> {
        let kernel = match &self.chosen {
            Some(chosen) => kernels.set_default(chosen)?,
            None => {
                let source = self.source(build).await?;
                let name = self.new_name(&source)?;
                kernels.check_unused(&name)?;
                let file = self.fetch(&source).await?;
                add(kernels, &name, &source, &file)?;
                kernels.set_default(&name)?
            }
        };
        output::line(kernel.name)
    }

    async fn source(&self, build: &str) -> Result<KernelSource, Failure> {
        if self.recommended {
            return recommended(build).await;
        }
        let binary = self.binary.clone().unwrap_or_default();
        let (location, member) = match &self.tar {
            Some(tar) => (tar, Some(binary)),
            None => (&binary, None),
        };
        Ok(KernelSource::parse(location, member, self.digest)?)
    }

    fn new_name(&self, source: &KernelSource) -> Result<KernelName, Failure> {
        match &self.name {
            Some(name) => Ok(name.clone()),
            None => source.kernel_name().map_err(|error| {
                Failure::new(format!("{error} (choose another name with: --name NAME)"))
            }),
        }
    }

    async fn fetch(&self, source: &KernelSource) -> Result<FetchedFile, Failure> {
        show_while(
            self.progress.mode,
            "Cancelled; nothing was changed.",
            async |progress| {
                let step = |done, total| {
                    progress(Progress::Step(Step {
                        name: "fetching kernel".to_owned(),
                        layers: None,
                        done: Some(done),
                        total,
                    }));
                };
                fetch(source, step).await
            },
        )
        .await
    }
}

/// Returns the kernel that the configuration file recommends.
async fn recommended(build: &str) -> Result<KernelSource, Failure> {
    let system = Client::connect(build).await?.system().await?;
    let Some(RecommendedKernel {
        binary,
        digest,
        url,
    }) = system.kernel.recommended().cloned()
    else {
        let path = system.directories.config.join("config.toml");
        return Err(Failure::new(format!(
            "no recommended kernel in {} (set url, digest and, for an archive, binary in section [kernel])",
            path.display()
        )));
    };
    let digest = digest
        .parse()
        .map_err(|error| Failure::new(format!("the recommended kernel has an {error}")))?;
    Ok(KernelSource::parse(&url, binary, Some(digest))?)
}

fn add(
    kernels: &Kernels,
    name: &KernelName,
    source: &KernelSource,
    file: &FetchedFile,
) -> Result<(), Failure> {
    let Some(member) = source.member() else {
        kernels.add(name, file.path(), source.to_string())?;
        return Ok(());
    };
    let scratch = tempfile::tempdir().map_err(Failure::cannot("create a temporary directory"))?;
    let image = scratch.path().join("kernel");
    extract(file.path(), member, &image)?;
    kernels.add(name, &image, source.to_string())?;
    Ok(())
}
