//! The templates on disk.

use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use container_machine::create_private;
use container_protocol::local::BootKind;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::key::TemplateKey;
use crate::checksum::Checksum;

/// Maximum number of templates. Those that were not used for longest are removed.
const MAX_TEMPLATES: usize = 8;

/// Names of the files of a template.
const MANIFEST: &str = "template.json";
const MEMORY: &str = "memory";
const CONSOLE: &str = "console.log";

/// How a boot starts its virtual machine.
#[derive(Debug)]
pub(crate) enum TemplateUse {
    /// By restoring this template.
    Restore(Template),
    /// By booting the kernel.
    Cold(Cold),
}

/// A boot without a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cold {
    /// Why no template is used.
    pub reason: String,
    /// Whether a template for later boots is to be made.
    pub make: bool,
}

impl Cold {
    /// Returns a boot of a machine for which no template is made.
    pub(crate) fn because(reason: impl Into<String>) -> Cold {
        Cold {
            reason: reason.into(),
            make: false,
        }
    }

    /// Returns a boot of a machine for which a template is made afterwards.
    pub(crate) fn for_now(reason: impl Into<String>) -> Cold {
        Cold {
            reason: reason.into(),
            make: true,
        }
    }
}

impl TemplateUse {
    /// Returns what clients see.
    pub(crate) fn report(&self) -> BootKind {
        match self {
            TemplateUse::Restore(_) => BootKind::Template,
            TemplateUse::Cold(cold) => BootKind::Cold {
                reason: cold.reason.clone(),
            },
        }
    }
}

/// Description of a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    /// What the template depends on.
    pub key: TemplateKey,
    /// What became of it.
    pub outcome: Outcome,
}

/// Result of making a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Outcome {
    /// It was saved.
    Saved {
        /// [`Checksum`] of the file `memory`.
        checksum: Checksum,
    },
    /// It could not be saved, and another attempt would fail too.
    Impossible {
        /// Why it could not be saved.
        reason: String,
    },
}

/// A saved template.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    directory: PathBuf,
    checksum: Checksum,
}

impl Template {
    /// Returns the path of the saved virtual machine.
    pub(crate) fn memory(&self) -> PathBuf {
        self.directory.join(MEMORY)
    }

    /// Returns the output of its kernel.
    pub(crate) fn console(&self) -> String {
        let console = fs::read(self.directory.join(CONSOLE)).unwrap_or_default();
        String::from_utf8_lossy(&console).into_owned()
    }

    /// Returns a reason if the saved virtual machine is not what was written. Takes some 20 ms.
    pub(crate) fn defect(&self) -> Option<String> {
        match Checksum::read(&self.memory()) {
            Ok(checksum) if checksum == self.checksum => None,
            Ok(_) => Some("the template was damaged (its checksum differs)".to_owned()),
            Err(error) => Some(format!("the template cannot be read: {error}")),
        }
    }

    /// Removes the template. A machine that is being restored from it keeps the open file.
    pub(crate) fn remove(&self) {
        remove(&self.directory);
    }
}

/// The directory of templates.
#[derive(Debug, Clone)]
pub(crate) struct Templates {
    directory: PathBuf,
}

impl Templates {
    /// Returns the templates in a directory, which need not exist.
    pub(crate) fn new(directory: &Path) -> Templates {
        Templates {
            directory: directory.to_owned(),
        }
    }

    /// Creates the directory.
    pub(crate) fn create(&self) -> io::Result<()> {
        create_private(&self.directory).map_err(io::Error::other)
    }

    /// Returns the lock of the process that makes a template.
    pub(crate) fn lock(&self) -> PathBuf {
        self.directory.join("lock")
    }

    /// Returns the log of the process that makes a template.
    pub(crate) fn maker_log(&self) -> PathBuf {
        self.directory.join("maker.log")
    }

    /// Returns the template with this key, or why there is none. Notes its use.
    pub(crate) fn choose(&self, key: &TemplateKey) -> TemplateUse {
        let directory = self.directory.join(key.name());
        let manifest = match Manifest::read(&directory) {
            Ok(manifest) if manifest.key == *key => manifest,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return TemplateUse::Cold(Cold::for_now("no template has been made yet"));
            }
            Ok(_) | Err(_) => {
                remove(&directory);
                let reason = "the template was damaged (its description is not valid)";
                return TemplateUse::Cold(Cold::for_now(reason));
            }
        };
        match manifest.outcome {
            Outcome::Saved { checksum } => {
                note_use(&directory);
                TemplateUse::Restore(Template {
                    directory,
                    checksum,
                })
            }
            Outcome::Impossible { reason } => TemplateUse::Cold(Cold::because(reason)),
        }
    }

    /// Returns whether there is a template with this key, or one could not be made.
    pub(crate) fn is_made(&self, key: &TemplateKey) -> bool {
        Manifest::read(&self.directory.join(key.name())).is_ok()
    }

    /// Removes what a crash left, and returns a new directory to make a template in. The caller
    /// holds the lock.
    pub(crate) fn scratch(&self) -> io::Result<TempDir> {
        for directory in self.all()? {
            if is_hidden(&directory) {
                fs::remove_dir_all(&directory)?;
            }
        }
        tempfile::Builder::new()
            .prefix(".making-")
            .tempdir_in(&self.directory)
    }

    /// Publishes a template whose files are in `scratch`. Without a saved virtual machine, only the
    /// reason is kept.
    pub(crate) fn publish(&self, scratch: &Path, manifest: &Manifest) -> io::Result<()> {
        let staged = tempfile::Builder::new()
            .prefix(".staged-")
            .tempdir_in(&self.directory)?;
        if let Outcome::Saved { .. } = manifest.outcome {
            for file in [MEMORY, CONSOLE] {
                fs::set_permissions(scratch.join(file), Permissions::from_mode(0o600))?;
                fs::rename(scratch.join(file), staged.path().join(file))?;
                File::open(staged.path().join(file))?.sync_all()?;
            }
        }
        let json = serde_json::to_vec(manifest)?;
        let path = staged.path().join(MANIFEST);
        fs::write(&path, json)?;
        File::open(&path)?.sync_all()?;
        let published = self.directory.join(manifest.key.name());
        remove(&published);
        fs::rename(staged.keep(), published)?;
        File::open(&self.directory)?.sync_all()
    }

    /// Returns where a virtual machine is saved below a scratch directory, and its console's log.
    pub(crate) fn files(scratch: &Path) -> (PathBuf, PathBuf) {
        (scratch.join(MEMORY), scratch.join(CONSOLE))
    }

    /// Removes templates that no machine can have any more, and those beyond the maximum number.
    /// The caller holds the lock.
    pub(crate) fn prune(&self) -> io::Result<()> {
        let mut kept = Vec::new();
        for directory in self.all()? {
            if is_hidden(&directory) {
                continue;
            }
            match Manifest::read(&directory) {
                Ok(manifest) if manifest.key.is_current() => {
                    kept.push((last_use(&directory), directory));
                }
                Ok(_) | Err(_) => remove(&directory),
            }
        }
        kept.sort();
        let surplus = kept.len().saturating_sub(MAX_TEMPLATES);
        kept.iter()
            .take(surplus)
            .for_each(|(_, directory)| remove(directory));
        Ok(())
    }

    /// Returns the complete templates.
    pub(super) fn complete(&self) -> io::Result<Vec<PathBuf>> {
        let mut directories = match self.all() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            directories => directories?,
        };
        directories.retain(|directory| !is_hidden(directory));
        Ok(directories)
    }

    /// Returns all directories.
    fn all(&self) -> io::Result<Vec<PathBuf>> {
        let mut directories = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                directories.push(entry.path());
            }
        }
        Ok(directories)
    }
}

impl Manifest {
    pub(super) fn read(directory: &Path) -> io::Result<Manifest> {
        let json = fs::read(directory.join(MANIFEST))?;
        Ok(serde_json::from_slice(&json)?)
    }
}

fn is_hidden(directory: &Path) -> bool {
    let name = directory.file_name().unwrap_or_default();
    name.as_encoded_bytes().starts_with(b".")
}

fn last_use(directory: &Path) -> SystemTime {
    let about = fs::metadata(directory.join(MANIFEST)).and_then(|it| it.modified());
    about.unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Notes that a template is used now. Without the note it may be removed early.
fn note_use(directory: &Path) {
    if let Ok(manifest) = File::options().write(true).open(directory.join(MANIFEST)) {
        let _ = manifest.set_modified(SystemTime::now());
    }
}

/// Removes a template, if it exists. What a failure leaves is removed when the next one is made.
pub(super) fn remove(directory: &Path) {
    let name = directory.file_name().unwrap_or_default().to_string_lossy();
    let hidden = directory.with_file_name(format!(".removed-{name}-{}", std::process::id()));
    if fs::rename(directory, &hidden).is_ok() {
        let _ = fs::remove_dir_all(hidden);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::templates::key::tests::key;

    fn publish(templates: &Templates, name: &str) {
        let scratch = templates.scratch().unwrap();
        let (memory, console) = Templates::files(scratch.path());
        let file = File::create(&memory).unwrap();
        file.set_len(1 << 30).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"memory", 1 << 20).unwrap();
        fs::write(console, "console").unwrap();
        let manifest = Manifest {
            key: key(name),
            outcome: Outcome::Saved {
                checksum: Checksum::read(&memory).unwrap(),
            },
        };
        templates.publish(scratch.path(), &manifest).unwrap();
    }

    fn chosen(templates: &Templates, name: &str) -> Template {
        match templates.choose(&key(name)) {
            TemplateUse::Restore(template) => template,
            TemplateUse::Cold(cold) => panic!("{cold:?}"),
        }
    }

    #[test]
    fn a_published_template_is_chosen_and_a_damaged_one_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let templates = Templates::new(directory.path());
        let none = templates.choose(&key("one"));
        assert!(matches!(none, TemplateUse::Cold(Cold { make: true, .. })));
        publish(&templates, "one");
        let template = chosen(&templates, "one");
        assert_eq!(template.defect(), None);
        assert_eq!(template.console(), "console");
        assert!(!templates.is_made(&key("other")));

        let memory = File::options().write(true).open(template.memory()).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&memory, b"M", 1 << 20).unwrap();
        assert!(template.defect().unwrap().contains("checksum"));
        template.remove();
        assert!(!templates.is_made(&key("one")));
        assert!(template.defect().is_some());
    }

    #[test]
    fn an_invalid_description_counts_as_damage() {
        let directory = tempfile::tempdir().unwrap();
        let templates = Templates::new(directory.path());
        publish(&templates, "one");
        let published = directory.path().join(key("one").name());
        fs::write(published.join(MANIFEST), "{").unwrap();
        let TemplateUse::Cold(cold) = templates.choose(&key("one")) else {
            panic!("a damaged template is used");
        };
        assert!(cold.make && cold.reason.contains("damaged"), "{cold:?}");
        assert!(!published.exists());
    }

    #[test]
    fn an_impossible_template_is_not_tried_again() {
        let directory = tempfile::tempdir().unwrap();
        let templates = Templates::new(directory.path());
        let scratch = templates.scratch().unwrap();
        let manifest = Manifest {
            key: key("one"),
            outcome: Outcome::Impossible {
                reason: "too old".to_owned(),
            },
        };
        templates.publish(scratch.path(), &manifest).unwrap();
        let TemplateUse::Cold(cold) = templates.choose(&key("one")) else {
            panic!("there is no template");
        };
        assert_eq!(cold, Cold::because("too old"));
        assert!(templates.is_made(&key("one")));
    }

    #[test]
    fn the_least_recently_used_templates_are_pruned() {
        let directory = tempfile::tempdir().unwrap();
        let templates = Templates::new(directory.path());
        let names: Vec<String> = (0..MAX_TEMPLATES + 2).map(|it| it.to_string()).collect();
        for (age, name) in (1..).zip(&names) {
            publish(&templates, name);
            let manifest = directory.path().join(key(name).name()).join(MANIFEST);
            let manifest = File::options().write(true).open(manifest).unwrap();
            let used = SystemTime::now() - Duration::from_secs(3600 * age);
            manifest.set_modified(used).unwrap();
        }
        // The oldest is used again.
        chosen(&templates, names.last().unwrap());
        templates.prune().unwrap();
        let made = |name: &&String| templates.is_made(&key(name));
        let kept: Vec<&String> = names.iter().filter(made).collect();
        let mut expected: Vec<&String> = names.iter().take(MAX_TEMPLATES - 1).collect();
        expected.push(names.last().unwrap());
        assert_eq!(kept, expected);
    }

    #[test]
    fn a_template_whose_kernel_has_changed_is_pruned() {
        let directory = tempfile::tempdir().unwrap();
        let kernel = directory.path().join("vmlinux");
        fs::write(&kernel, "kernel").unwrap();
        let templates = Templates::new(&directory.path().join("templates"));
        templates.create().unwrap();
        let manifest = Manifest {
            key: TemplateKey::new("qemu".to_owned(), std::slice::from_ref(&kernel)).unwrap(),
            outcome: Outcome::Impossible {
                reason: "test".to_owned(),
            },
        };
        let scratch = templates.scratch().unwrap();
        templates.publish(scratch.path(), &manifest).unwrap();
        templates.prune().unwrap();
        assert!(templates.is_made(&manifest.key));
        fs::write(&kernel, "another kernel").unwrap();
        templates.prune().unwrap();
        assert!(!templates.is_made(&manifest.key));
    }
}
