//! `container system kernel remove`

use clap::Args;
use container_kernel::{KernelName, Kernels};

use crate::{failure::Failure, output};

/// Remove a kernel that was added. Machines that run on it go on.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container system kernel rm vmlinux-6.12.9")]
pub struct Remove {
    /// Its name.
    name: KernelName,
}

impl Remove {
    pub fn carry_out(self, kernels: &Kernels) -> Result<(), Failure> {
        kernels.remove(&self.name)?;
        output::line(self.name)
    }
}
