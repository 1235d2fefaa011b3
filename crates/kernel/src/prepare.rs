//! From an image to what boots.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    configuration::{KernelConfiguration, Needs},
    image::{Image, ImageError},
    modules::{ModulesError, module_directory, pack},
};

/// Names of the files of a prepared kernel, in one directory.
pub const VMLINUX: &str = "vmlinux";
pub const MODULES: &str = "modules.cpio";
pub const ABOUT: &str = "kernel.json";

/// What is known of a prepared kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct About {
    /// The version that it was built as: what `uname -r` says.
    pub release: String,
    /// Where it comes from, for people.
    pub source: String,
    /// Whether machines on it can run virtual machines of their own, if its configuration says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtualization: Option<bool>,
}

/// Why a kernel could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// Its image cannot be used.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Its modules cannot be.
    #[error("the kernel {path} cannot be used: {source}", path = .path.display())]
    Modules {
        /// The image.
        path: PathBuf,
        /// Why not.
        source: ModulesError,
    },
    /// It lacks something.
    #[error("the kernel {path} cannot be used: it has no {lack}", path = .path.display())]
    Lacks {
        /// The image.
        path: PathBuf,
        /// What it lacks, and what to do about it.
        lack: String,
    },
    /// What boots could not be written.
    #[error("preparing the kernel {path}: {source}", path = .path.display())]
    Write {
        /// The image.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// A kernel that was looked at.
struct Checked {
    image: Image,
    configuration: Option<KernelConfiguration>,
    modules: Option<PathBuf>,
}

/// Refuses a kernel of which it can be told that a machine with these needs does not run on it. What has
/// been prepared was checked then, and is only asked what may differ from machine to machine.
///
/// # Errors
/// If it cannot be read, is no kernel, or lacks an option.
pub fn check(path: &Path, needs: Needs) -> Result<(), PrepareError> {
    match about(path) {
        Some(about) if needs.virtualization && about.virtualization == Some(false) => {
            Err(PrepareError::Lacks {
                path: path.to_owned(),
                lack: virtualization_lack("CONFIG_KVM"),
            })
        }
        Some(_) => Ok(()),
        None => looked_at(path, needs).map(drop),
    }
}

/// Makes what boots of an image: returns the file to start and the archive of its modules. What has been
/// prepared already stays where it is; else the files are made in `directory`.
///
/// # Errors
/// As for [`check`], and if the files cannot be written.
pub fn prepare(
    path: &Path,
    needs: Needs,
    directory: &Path,
) -> Result<(PathBuf, Option<PathBuf>), PrepareError> {
    if about(path).is_some() {
        check(path, needs)?;
        let modules = path.with_file_name(MODULES);
        return Ok((path.to_owned(), modules.exists().then_some(modules)));
    }
    let checked = looked_at(path, needs)?;
    let image = match checked.image.is_bzimage() && checked.image.has_pvh() {
        true => {
            let image = directory.join(VMLINUX);
            fs::write(&image, checked.image.elf()).map_err(|source| PrepareError::Write {
                path: path.to_owned(),
                source,
            })?;
            image
        }
        false => path.to_owned(),
    };
    let modules = packed(path, &checked, directory)?;
    Ok((image, modules))
}

/// Prepares a kernel for good: fills an empty directory.
///
/// # Errors
/// As for [`prepare`], and for a bzImage that could only be started as such.
pub fn install(path: &Path, source: String, directory: &Path) -> Result<About, PrepareError> {
    let failed = |source| PrepareError::Write {
        path: path.to_owned(),
        source,
    };
    let checked = looked_at(
        path,
        Needs {
            home: true,
            ..Needs::default()
        },
    )?;
    if !checked.image.has_pvh() {
        return Err(PrepareError::Lacks {
            path: path.to_owned(),
            lack: "CONFIG_PVH, without which it starts slowly: `set kernel=PATH` uses it for one machine"
                .to_owned(),
        });
    }
    fs::write(directory.join(VMLINUX), checked.image.elf()).map_err(failed)?;
    packed(path, &checked, directory)?;
    let virtualization = checked.configuration.as_ref().map(|configuration| {
        let needs = Needs {
            home: true,
            virtualization: true,
        };
        configuration
            .missing(needs, checked.modules.is_some())
            .is_empty()
    });
    let about = About {
        release: checked.image.release().to_owned(),
        source,
        virtualization,
    };
    let text = serde_json::to_vec_pretty(&about).map_err(|error| failed(error.into()))?;
    fs::write(directory.join(ABOUT), text).map_err(failed)?;
    Ok(about)
}

fn packed(
    path: &Path,
    checked: &Checked,
    directory: &Path,
) -> Result<Option<PathBuf>, PrepareError> {
    let Some(modules) = &checked.modules else {
        return Ok(None);
    };
    let archive = directory.join(MODULES);
    pack(modules, checked.image.release(), &archive).map_err(|source| PrepareError::Modules {
        path: path.to_owned(),
        source,
    })?;
    Ok(Some(archive))
}

/// What is known of a prepared kernel with this image; nothing if it was not prepared.
pub fn about(image: &Path) -> Option<About> {
    if image.file_name()? != VMLINUX {
        return None;
    }
    let text = fs::read(image.with_file_name(ABOUT)).ok()?;
    serde_json::from_slice(&text).ok()
}

fn looked_at(path: &Path, needs: Needs) -> Result<Checked, PrepareError> {
    let image = Image::read(path)?;
    let lacks = |lack: String| PrepareError::Lacks {
        path: path.to_owned(),
        lack,
    };
    if !image.is_bzimage() && !image.has_pvh() {
        return Err(lacks(
            "CONFIG_PVH, so it cannot be started as it is: its bzImage can be (arch/x86/boot/bzImage, vmlinuz)"
                .to_owned(),
        ));
    }
    // What lies around the image lies around what a link to it leads to.
    let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let release = image.release();
    let around = |path: &Path| module_directory(path, release);
    let modules = around(&real).or_else(|| around(path));
    let configuration = image.configuration();
    let configuration = configuration
        .or_else(|| beside(&real, release))
        .or_else(|| beside(path, release));
    if let Some(configuration) = &configuration {
        let missing = configuration.missing(needs, modules.is_some());
        if !missing.is_empty() {
            let only_virtualization = configuration
                .missing(
                    Needs {
                        virtualization: false,
                        ..needs
                    },
                    modules.is_some(),
                )
                .is_empty();
            let options = missing.join(", ");
            return Err(lacks(match only_virtualization {
                true => virtualization_lack(&options),
                false => {
                    let hint = match modules {
                        Some(_) => String::new(),
                        None => format!(
                            " (or has it as a module, and there is no lib/modules/{} beside it or on this computer)",
                            image.release()
                        ),
                    };
                    format!("{options}, which machines need{hint}")
                }
            }));
        }
    }
    Ok(Checked {
        image,
        configuration,
        modules,
    })
}

fn virtualization_lack(options: &str) -> String {
    format!("{options}, so machines on it cannot run virtual machines of their own")
}

/// The configuration that a distribution puts beside the image.
fn beside(image: &Path, release: &str) -> Option<KernelConfiguration> {
    let names = [format!("config-{release}"), "config".to_owned()];
    let texts = names
        .iter()
        .map(|name| fs::read_to_string(image.with_file_name(name)));
    let text = texts.into_iter().find_map(Result::ok)?;
    Some(KernelConfiguration::of(&text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::tests::elf;

    #[test]
    fn a_kernel_that_lacks_something_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let kernel = directory.path().join("k");
        let refused = |needs: Needs| check(&kernel, needs).unwrap_err().to_string();
        fs::write(&kernel, elf(None, false)).unwrap();
        assert!(refused(Needs::default()).contains("CONFIG_PVH"));
        fs::write(
            &kernel,
            elf(Some("CONFIG_PROC_FS=y\nCONFIG_EXT4_FS=m\n"), true),
        )
        .unwrap();
        let reason = refused(Needs::default());
        assert!(reason.contains("CONFIG_DEVTMPFS, ") && reason.contains("CONFIG_EXT4_FS"));
        assert!(!reason.contains("CONFIG_PROC_FS") && reason.contains("lib/modules/6.12.9-test"));
        // Nothing can be told of one that does not say.
        fs::write(&kernel, elf(None, true)).unwrap();
        check(
            &kernel,
            Needs {
                home: true,
                virtualization: true,
            },
        )
        .unwrap();
        fs::write(
            directory.path().join("config-6.12.9-test"),
            "CONFIG_NET=y\n",
        )
        .unwrap();
        assert!(refused(Needs::default()).contains("CONFIG_INET"));
    }

    #[test]
    fn what_was_prepared_is_not_looked_at_again() {
        let directory = tempfile::tempdir().unwrap();
        let kernel = directory.path().join("k");
        fs::write(&kernel, elf(None, true)).unwrap();
        let made = directory.path().join("made");
        fs::create_dir(&made).unwrap();
        let about = install(&kernel, "a test".to_owned(), &made).unwrap();
        assert_eq!(
            (about.release.as_str(), about.virtualization),
            ("6.12.9-test", None)
        );
        let image = made.join(VMLINUX);
        let nowhere = Path::new("/nowhere");
        let prepared = prepare(&image, Needs::default(), nowhere).unwrap();
        assert_eq!(prepared, (image.clone(), None));
        fs::write(
            made.join(ABOUT),
            r#"{"release": "6", "source": "", "virtualization": false}"#,
        )
        .unwrap();
        let needs = Needs {
            virtualization: true,
            ..Needs::default()
        };
        let reason = prepare(&image, needs, nowhere).unwrap_err().to_string();
        assert!(reason.contains("CONFIG_KVM"), "{reason}");
    }
}
