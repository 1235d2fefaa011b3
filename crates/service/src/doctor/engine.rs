//! What machines run on: engine, accelerator, kernel and the guest's files.

use container_api::Check;
use container_engine::{
    Accelerator, AcceleratorProbe, ConfinementChoice, EngineSettings, can_confine,
};
use container_kernel::{Kernels, Requirements};
use container_machine::Directories;

use super::kvm;

/// Checks that the engine is installed, and has everything that machines need.
pub(super) fn engine(settings: &EngineSettings) -> Check {
    let name = "engine";
    let install = "install QEMU 10 or later (Debian 13: sudo apt install qemu-system-x86 \
                   qemu-utils; Debian 12: the same from bookworm-backports)";
    let engine = container_engine::engine(settings);
    let about = match engine.about() {
        Ok(about) => about,
        Err(error) => return Check::problem(name, error.to_string()).with_fix(install),
    };
    let found = format!("{} ({})", about.version, about.program.display());
    match engine.missing_features() {
        Ok(missing) if missing.is_empty() => Check::ok(name, found),
        Ok(missing) => {
            let message = format!("{found} lacks {}", missing.join(", "));
            Check::problem(name, message).with_fix(install)
        }
        Err(error) => Check::problem(name, error.to_string()).with_fix(install),
    }
}

/// Checks that machines run on hardware virtualization.
pub(super) fn accelerator(settings: &EngineSettings) -> Check {
    let name = "accelerator";
    let obstacle = AcceleratorProbe::from_host().kvm_obstacle();
    match (container_engine::choose(settings), obstacle) {
        (Err(error), None) => Check::problem(name, error.to_string()),
        (Err(error), Some(obstacle)) => {
            Check::problem(name, error.to_string()).with_fix(kvm::fix(&obstacle))
        }
        (Ok(Accelerator::Tcg), Some(obstacle)) => {
            let message =
                format!("machines run on an emulated processor, which is slow: {obstacle}");
            Check::warning(name, message).with_fix(kvm::fix(&obstacle))
        }
        (Ok(Accelerator::Tcg), None) => Check::ok(
            name,
            "tcg, as config.toml or CONTAINER_ACCELERATOR says; KVM could be used",
        ),
        (Ok(accelerator), _) => Check::ok(name, accelerator.to_string()),
    }
}

/// Checks that the engine can be confined to its own files.
pub(super) fn confinement(settings: &EngineSettings) -> Check {
    let name = "confinement";
    match settings.confinement {
        ConfinementChoice::None => Check::warning(
            name,
            "config.toml lets QEMU open all of your files ([engine] confinement)",
        ),
        ConfinementChoice::Landlock if can_confine() => {
            Check::ok(name, "QEMU and the file share are confined by Landlock")
        }
        ConfinementChoice::Landlock => Check::warning(
            name,
            "the kernel has no Landlock, which keeps QEMU and the file share from your other files",
        )
        .with_fix("add landlock to the kernel parameter lsm= (or update to Linux 5.13 or later)"),
    }
}

/// Checks that there is a default kernel that machines can boot.
pub(super) fn kernel(directories: &Directories) -> Check {
    let name = "kernel";
    let fix = "see container system kernel ls; make install restores the kernels of the program";
    let problem = |error: String| Check::problem(name, error).with_fix(fix);
    let kernels = match Kernels::from_installation(directories.kernels()) {
        Ok(kernels) => kernels,
        Err(error) => return problem(error.to_string()),
    };
    let kernel = match kernels.default_kernel() {
        Ok(kernel) => kernel,
        Err(error) => return problem(error.to_string()),
    };
    let requirements = Requirements {
        shared_home: true,
        virtualization: false,
    };
    match container_kernel::check(&kernel.image, requirements) {
        Ok(()) => Check::ok(
            name,
            format!("{}: Linux {}", kernel.name, kernel.metadata.release),
        ),
        Err(error) => problem(error.to_string()),
    }
}

/// Checks that the files of the guest are installed.
pub(super) fn guest_files() -> Check {
    let name = "guest-files";
    match container_runtime::check_guest_files() {
        Ok(file) => Check::ok(name, file.display().to_string()),
        Err(error) => Check::problem(name, error.to_string()),
    }
}
