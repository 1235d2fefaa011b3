//! Disk usage of templates, and their removal on request.

use std::{fs, io, os::unix::fs::MetadataExt, path::Path};

use super::store::{Manifest, Templates, remove};

/// Templates and their disk usage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TemplateUsage {
    /// Number of templates.
    pub count: usize,
    /// Number of templates that machines can still start from.
    pub current: usize,
    /// Disk usage of all templates in bytes.
    pub size: u64,
}

/// Templates that were removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RemovedTemplates {
    /// Number of templates.
    pub count: usize,
    /// Bytes that they occupied on disk.
    pub bytes: u64,
}

/// Returns the disk usage of the templates in a directory, which need not exist.
///
/// # Errors
/// [`io::Error`] if the directory cannot be read.
pub fn template_usage(directory: &Path) -> io::Result<TemplateUsage> {
    let mut usage = TemplateUsage::default();
    for template in Templates::new(directory).complete()? {
        usage.count += 1;
        usage.current += usize::from(is_current(&template));
        usage.size += size(&template);
    }
    Ok(usage)
}

/// Removes the templates that no machine can start from any more, or all of them. A machine that is
/// starting from one is not disturbed.
///
/// # Errors
/// [`io::Error`] if the directory cannot be read.
pub fn remove_templates(directory: &Path, all: bool) -> io::Result<RemovedTemplates> {
    let mut removed = RemovedTemplates::default();
    for template in Templates::new(directory).complete()? {
        if all || !is_current(&template) {
            removed.count += 1;
            removed.bytes += size(&template);
            remove(&template);
        }
    }
    Ok(removed)
}

fn is_current(template: &Path) -> bool {
    Manifest::read(template).is_ok_and(|manifest| manifest.key.is_current())
}

/// Returns the disk usage of a template in bytes; 0 if it has been removed meanwhile.
fn size(template: &Path) -> u64 {
    let files = fs::read_dir(template).into_iter().flatten().flatten();
    let sizes = files.filter_map(|file| Some(file.metadata().ok()?.blocks() * 512));
    sizes.sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::templates::{
        key::{TemplateKey, tests::key},
        store::Outcome,
    };

    /// Publishes a template that was not saved.
    fn publish(templates: &Templates, key: TemplateKey) {
        let scratch = templates.scratch().unwrap();
        let reason = "for a test".to_owned();
        let outcome = Outcome::Impossible { reason };
        let manifest = Manifest { key, outcome };
        templates.publish(scratch.path(), &manifest).unwrap();
    }

    #[test]
    fn templates_are_counted_and_removed() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("templates");
        assert_eq!(
            template_usage(&directory).unwrap(),
            TemplateUsage::default()
        );
        let templates = Templates::new(&directory);
        templates.create().unwrap();
        publish(&templates, key("current"));
        let kernel = root.path().join("kernel");
        fs::write(&kernel, "kernel").unwrap();
        publish(
            &templates,
            TemplateKey::new("old".to_owned(), std::slice::from_ref(&kernel)).unwrap(),
        );
        fs::remove_file(&kernel).unwrap();

        let usage = template_usage(&directory).unwrap();
        assert_eq!((usage.count, usage.current), (2, 1));
        assert!(usage.size > 0);
        assert_eq!(remove_templates(&directory, false).unwrap().count, 1);
        assert_eq!(template_usage(&directory).unwrap().count, 1);
        assert_eq!(remove_templates(&directory, true).unwrap().count, 1);
        assert_eq!(template_usage(&directory).unwrap().count, 0);
    }
}
