//! Checking a kernel, and preparing it for booting.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use crate::{
    configuration::{KernelConfiguration, Requirements},
    image::KernelImage,
    image_error::ImageError,
    metadata::{KernelMetadata, METADATA, MODULES, VMLINUX},
    modules::{ModulesError, find_modules, pack},
};

/// Error of checking or preparing a kernel.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The image cannot be read, or is not a kernel.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The modules cannot be packed.
    #[error("kernel {path} cannot be used: {cause}", path = .path.display())]
    Modules {
        /// Path of the image.
        path: PathBuf,
        /// Error of packing the modules.
        cause: ModulesError,
    },
    /// The ELF file has no PVH entry point.
    #[error(
        "kernel {path} cannot be used: it has no CONFIG_PVH, so it cannot be started directly; use its bzImage (arch/x86/boot/bzImage, vmlinuz)",
        path = .path.display()
    )]
    NotStartable {
        /// Path of the image.
        path: PathBuf,
    },
    /// The bzImage has no PVH entry point, and would start slowly.
    #[error(
        "kernel {path} cannot be added: it has no CONFIG_PVH, without which it starts slowly; to use it for one machine: container machine set kernel={path}",
        path = .path.display()
    )]
    StartsSlowly {
        /// Path of the image.
        path: PathBuf,
    },
    /// The kernel lacks options that machines need.
    #[error(
        "kernel {path} cannot be used: it has no {options}, which machines need{hint}",
        path = .path.display(),
        options = .options.join(", "),
        hint = modules_hint(.missing_modules.as_deref())
    )]
    MissingOptions {
        /// Path of the image.
        path: PathBuf,
        /// The options, with `CONFIG_`.
        options: Vec<String>,
        /// The kernel's release, if its modules were not found: the options may be modules.
        missing_modules: Option<String>,
    },
    /// The kernel lacks options for virtual machines in the machine.
    #[error(
        "kernel {path} cannot be used: it has no {options}, so machines cannot run virtual machines",
        path = .path.display(),
        options = .options.join(", ")
    )]
    NoVirtualization {
        /// Path of the image.
        path: PathBuf,
        /// The options, with `CONFIG_`.
        options: Vec<String>,
    },
    /// The prepared files cannot be written.
    #[error("cannot prepare kernel {path}: {cause}", path = .path.display())]
    Write {
        /// Path of the image.
        path: PathBuf,
        /// Error of the system call.
        cause: io::Error,
    },
}

fn modules_hint(missing_modules: Option<&str>) -> String {
    missing_modules.map_or_else(String::new, |release| {
        format!(
            " (they may be modules, but lib/modules/{release} was not found beside the kernel or on this host)"
        )
    })
}

/// A kernel that meets the requirements.
struct InspectedKernel {
    image: KernelImage,
    /// `None` when the kernel has no configuration, so that its options are unknown.
    configuration: Option<KernelConfiguration>,
    /// Directory of the kernel's modules.
    modules: Option<PathBuf>,
}

/// Checks whether a kernel is known not to meet the requirements. A prepared kernel was checked
/// when it was prepared; only requirements that differ between machines are checked again.
///
/// # Errors
/// If it cannot be read, is not a kernel, or lacks an option.
pub fn check(path: &Path, requirements: Requirements) -> Result<(), PrepareError> {
    match KernelMetadata::read(path) {
        Some(metadata) if requirements.virtualization && metadata.virtualization == Some(false) => {
            Err(PrepareError::NoVirtualization {
                path: path.to_owned(),
                options: vec!["CONFIG_KVM".to_owned()],
            })
        }
        Some(_) => Ok(()),
        None => inspect(path, requirements).map(drop),
    }
}

/// Prepares a kernel for one boot. Returns the path of the file to start and of the archive with
/// its modules. The files of a prepared kernel are used in place; others are created in
/// `directory`.
///
/// # Errors
/// As for [`check`], and if the files cannot be written.
pub fn prepare(
    path: &Path,
    requirements: Requirements,
    directory: &Path,
) -> Result<(PathBuf, Option<PathBuf>), PrepareError> {
    if KernelMetadata::read(path).is_some() {
        check(path, requirements)?;
        let modules = path.with_file_name(MODULES);
        return Ok((path.to_owned(), modules.exists().then_some(modules)));
    }
    let kernel = inspect(path, requirements)?;
    // A bzImage with PVH starts faster as the ELF file in it, because nothing has to be
    // decompressed in the machine.
    let image = if kernel.image.is_bzimage() && kernel.image.has_pvh() {
        let image = directory.join(VMLINUX);
        fs::write(&image, kernel.image.elf()).map_err(write_error(path))?;
        image
    } else {
        path.to_owned()
    };
    let modules = pack_modules(path, &kernel, directory)?;
    Ok((image, modules))
}

/// Prepares a kernel permanently: writes its files into an empty directory, and returns after they
/// are on the disk. `source` says where it
/// comes from, for people to read.
///
/// # Errors
/// As for [`prepare`], and for a bzImage without PVH.
pub fn install(
    path: &Path,
    source: String,
    directory: &Path,
) -> Result<KernelMetadata, PrepareError> {
    let basic = Requirements {
        shared_home: true,
        virtualization: false,
    };
    let kernel = inspect(path, basic)?;
    if !kernel.image.has_pvh() {
        let path = path.to_owned();
        return Err(PrepareError::StartsSlowly { path });
    }
    fs::write(directory.join(VMLINUX), kernel.image.elf()).map_err(write_error(path))?;
    pack_modules(path, &kernel, directory)?;
    let virtualization = kernel.configuration.as_ref().map(|configuration| {
        let all = Requirements {
            virtualization: true,
            ..basic
        };
        configuration
            .missing(all, kernel.modules.is_some())
            .is_empty()
    });
    let metadata = KernelMetadata {
        release: kernel.image.release().to_owned(),
        source,
        virtualization,
    };
    let text = serde_json::to_vec_pretty(&metadata)
        .map_err(|error| write_error(path)(io::Error::from(error)))?;
    fs::write(directory.join(METADATA), text).map_err(write_error(path))?;
    sync_files(directory).map_err(write_error(path))?;
    Ok(metadata)
}

/// Returns after the files in a directory are on the disk.
fn sync_files(directory: &Path) -> io::Result<()> {
    for file in fs::read_dir(directory)? {
        File::open(file?.path())?.sync_all()?;
    }
    File::open(directory)?.sync_all()
}

fn write_error(path: &Path) -> impl FnOnce(io::Error) -> PrepareError {
    let path = path.to_owned();
    move |cause| PrepareError::Write { path, cause }
}

fn pack_modules(
    path: &Path,
    kernel: &InspectedKernel,
    directory: &Path,
) -> Result<Option<PathBuf>, PrepareError> {
    let Some(modules) = &kernel.modules else {
        return Ok(None);
    };
    let archive = directory.join(MODULES);
    pack(modules, kernel.image.release(), &archive).map_err(|cause| PrepareError::Modules {
        path: path.to_owned(),
        cause,
    })?;
    Ok(Some(archive))
}

/// Reads a kernel with its configuration and modules, and checks the requirements.
fn inspect(path: &Path, requirements: Requirements) -> Result<InspectedKernel, PrepareError> {
    let image = KernelImage::read(path)?;
    if !image.is_bzimage() && !image.has_pvh() {
        let path = path.to_owned();
        return Err(PrepareError::NotStartable { path });
    }
    // The other files may be beside the image or, if the path is a link, beside its target.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let release = image.release();
    let modules = find_modules(&target, release).or_else(|| find_modules(path, release));
    let configuration = image
        .configuration()
        .or_else(|| read_configuration_beside(&target, release))
        .or_else(|| read_configuration_beside(path, release));
    if let Some(configuration) = &configuration {
        check_options(
            path,
            release,
            configuration,
            requirements,
            modules.is_some(),
        )?;
    }
    Ok(InspectedKernel {
        image,
        configuration,
        modules,
    })
}

fn check_options(
    path: &Path,
    release: &str,
    configuration: &KernelConfiguration,
    requirements: Requirements,
    has_modules: bool,
) -> Result<(), PrepareError> {
    let options = configuration.missing(requirements, has_modules);
    if options.is_empty() {
        return Ok(());
    }
    let path = path.to_owned();
    let basic = Requirements {
        virtualization: false,
        ..requirements
    };
    if configuration.missing(basic, has_modules).is_empty() {
        return Err(PrepareError::NoVirtualization { path, options });
    }
    Err(PrepareError::MissingOptions {
        path,
        options,
        missing_modules: (!has_modules).then(|| release.to_owned()),
    })
}

/// Reads the configuration file that distributions store beside the image.
fn read_configuration_beside(image: &Path, release: &str) -> Option<KernelConfiguration> {
    let names = [format!("config-{release}"), "config".to_owned()];
    let text = names
        .iter()
        .find_map(|name| fs::read_to_string(image.with_file_name(name)).ok())?;
    Some(KernelConfiguration::parse(&text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::tests::elf;

    #[test]
    fn missing_options_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let kernel = directory.path().join("k");
        let refused =
            |requirements: Requirements| check(&kernel, requirements).unwrap_err().to_string();
        fs::write(&kernel, elf(None, false)).unwrap();
        assert!(refused(Requirements::default()).contains("CONFIG_PVH"));
        fs::write(
            &kernel,
            elf(Some("CONFIG_PROC_FS=y\nCONFIG_EXT4_FS=m\n"), true),
        )
        .unwrap();
        let reason = refused(Requirements::default());
        assert!(reason.contains("CONFIG_DEVTMPFS, ") && reason.contains("CONFIG_EXT4_FS"));
        assert!(!reason.contains("CONFIG_PROC_FS") && reason.contains("lib/modules/6.12.9-test"));
        // Without a configuration, nothing is known to be missing.
        fs::write(&kernel, elf(None, true)).unwrap();
        check(
            &kernel,
            Requirements {
                shared_home: true,
                virtualization: true,
            },
        )
        .unwrap();
        fs::write(
            directory.path().join("config-6.12.9-test"),
            "CONFIG_NET=y\n",
        )
        .unwrap();
        assert!(refused(Requirements::default()).contains("CONFIG_INET"));
    }

    #[test]
    fn a_prepared_kernel_is_not_inspected_again() {
        let directory = tempfile::tempdir().unwrap();
        let kernel = directory.path().join("k");
        fs::write(&kernel, elf(None, true)).unwrap();
        let made = directory.path().join("made");
        fs::create_dir(&made).unwrap();
        let metadata = install(&kernel, "a test".to_owned(), &made).unwrap();
        assert_eq!(
            (metadata.release.as_str(), metadata.virtualization),
            ("6.12.9-test", None)
        );
        let image = made.join(VMLINUX);
        let nowhere = Path::new("/nowhere");
        let prepared = prepare(&image, Requirements::default(), nowhere).unwrap();
        assert_eq!(prepared, (image.clone(), None));
        fs::write(
            made.join(METADATA),
            r#"{"release": "6", "source": "", "virtualization": false}"#,
        )
        .unwrap();
        let requirements = Requirements {
            virtualization: true,
            ..Requirements::default()
        };
        let reason = prepare(&image, requirements, nowhere)
            .unwrap_err()
            .to_string();
        assert!(reason.contains("CONFIG_KVM"), "{reason}");
    }
}
