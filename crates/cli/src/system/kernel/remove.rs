//! `container system kernel remove`

use clap::Args;
use container_kernel::{KernelName, Kernels};

use crate::{each::for_each, failure::Failure, output};

/// Remove kernels that were added. Running machines are not affected.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container system kernel rm vmlinux-6.12.9")]
pub(crate) struct Remove {
    /// Names of the kernels.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<KernelName>,
}

impl Remove {
    /// Removes the kernels one after the other and prints their names.
    pub(crate) async fn run(self, kernels: &Kernels) -> Result<u8, Failure> {
        for_each(self.names, async |name| {
            kernels.remove(&name)?;
            output::line(name)
        })
        .await
    }
}
