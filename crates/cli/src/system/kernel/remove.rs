//! `container system kernel remove`

use clap::Args;
use container_kernel::{KernelName, Kernels};

use crate::{each::for_each, failure::Failure, output};

/// Remove kernels that were added. Machines that run on one go on.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container system kernel rm vmlinux-6.12.9")]
pub struct Remove {
    /// Their names.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<KernelName>,
}

impl Remove {
    /// Removes them one after the other and prints their names.
    pub async fn carry_out(self, kernels: &Kernels) -> Result<u8, Failure> {
        for_each(self.names, async |name| {
            kernels.remove(&name)?;
            output::line(name)
        })
        .await
    }
}
