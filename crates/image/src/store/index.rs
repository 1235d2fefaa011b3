//! `index.json`: what each reference refers to (image-spec, image-layout.md, "index.json file").

use std::{
    collections::HashMap,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use oci_spec::{
    OciSpecError,
    image::{
        Descriptor as WrittenDescriptor, DescriptorBuilder, ImageIndex, ImageIndexBuilder,
        MediaType,
    },
};

use super::{ImageStore, StoreError, lock_file::lock_blocking};
use crate::{Descriptor, Digest, Reference};

const INDEX: &str = "index.json";
/// The specification's annotation for a reference.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Our annotation on an artifact with machine settings: the image that they belong to.
const SETTINGS_OF: &str = "container.machine-settings.image";
/// Our annotation on a local name: one that was assigned by a load, tag or commit, not by a pull.
const GIVEN_HERE: &str = "container.given-here";
/// Our annotation on a local name that was imported from another program on this host.
const TAKEN_OVER: &str = "container.taken-over";

/// An entry of `index.json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LayoutEntry {
    /// An image and its reference, if it has one.
    Image(Descriptor, Option<Reference>),
    /// An artifact with machine settings of the image with this manifest.
    Settings(Descriptor, Digest),
}

/// Returns all references in the store in this directory, without opening it: shell completion must
/// neither create a store nor wait for locks.
///
/// # Errors
/// [`StoreError`] if the store cannot be read.
pub fn references(root: &Path) -> Result<Vec<Reference>, StoreError> {
    let index = read_index(&root.join(INDEX))?;
    let entries = index.manifests().iter().filter_map(read_entry);
    let named = entries.filter_map(|entry| match entry {
        LayoutEntry::Image(_, name) => name,
        LayoutEntry::Settings(..) => None,
    });
    Ok(named.collect())
}

impl LayoutEntry {
    pub(super) fn image(&self) -> Option<&Descriptor> {
        match self {
            LayoutEntry::Image(image, _) => Some(image),
            LayoutEntry::Settings(..) => None,
        }
    }
}

impl ImageStore {
    /// Returns what this reference refers to.
    pub(crate) fn find_reference(
        &self,
        reference: &Reference,
    ) -> Result<Option<Descriptor>, StoreError> {
        self.find_entry(REF_NAME, &reference.to_string())
    }

    /// Whether this is a local name: assigned by a load, tag or commit, so that no registry is
    /// asked what it refers to.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read.
    pub(crate) fn is_local_name(&self, reference: &Reference) -> Result<bool, StoreError> {
        self.is_annotated(reference, GIVEN_HERE)
    }

    /// Whether this name was imported from another program on this host, which may refer to another
    /// image with it by now.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read.
    pub(crate) fn is_imported(&self, reference: &Reference) -> Result<bool, StoreError> {
        self.is_annotated(reference, TAKEN_OVER)
    }

    fn is_annotated(&self, reference: &Reference, key: &str) -> Result<bool, StoreError> {
        let (index, name) = (self.read_index()?, reference.to_string());
        let mut entries = index.manifests().iter();
        Ok(entries
            .any(|entry| is_named(entry, REF_NAME, &name) && annotation(entry, key).is_some()))
    }

    /// Marks a local name as imported from another program on this host.
    pub(crate) fn mark_imported(&self, reference: &Reference) -> Result<(), StoreError> {
        let name = reference.to_string();
        self.change_index(|entries| {
            for entry in entries {
                if is_named(entry, REF_NAME, &name) {
                    let mut annotations = entry.annotations().clone().unwrap_or_default();
                    annotations.insert(TAKEN_OVER.to_owned(), "true".to_owned());
                    entry.set_annotations(Some(annotations));
                }
            }
        })
    }

    /// Returns all entries in the index's order. Entries of unknown kinds are left out.
    pub(super) fn entries(&self) -> Result<Vec<LayoutEntry>, StoreError> {
        let index = self.read_index()?;
        Ok(index.manifests().iter().filter_map(read_entry).collect())
    }

    /// Returns all references with the image that each refers to.
    pub(crate) fn references(&self) -> Result<Vec<(Reference, Descriptor)>, StoreError> {
        let entries = self.entries()?.into_iter();
        let named = entries.filter_map(|entry| match entry {
            LayoutEntry::Image(descriptor, Some(reference)) => Some((reference, descriptor)),
            _ => None,
        });
        Ok(named.collect())
    }

    /// Lists images in the index, each under its local name or without a name. Names that referred
    /// to other images are moved. Atomic: all entries are written, or none.
    pub(crate) fn assign_names(
        &self,
        images: &[(Descriptor, Option<Reference>)],
    ) -> Result<(), StoreError> {
        let written = images.iter().map(|(descriptor, reference)| {
            let mut annotations = HashMap::from([(GIVEN_HERE.to_owned(), "true".to_owned())]);
            if let Some(reference) = reference {
                annotations.insert(REF_NAME.to_owned(), reference.to_string());
            }
            self.built(entry(descriptor, annotations))
        });
        let written: Vec<WrittenDescriptor> = written.collect::<Result<_, _>>()?;
        self.change_index(|entries| {
            for new in written {
                let name = annotation(&new, REF_NAME).map(str::to_owned);
                match name {
                    Some(name) => entries.retain(|entry| !is_named(entry, REF_NAME, &name)),
                    None => entries.retain(|entry| !is_unnamed(entry, &new)),
                }
                entries.push(new);
            }
            // An image that has a name needs no unnamed entry.
            let named: Vec<WrittenDescriptor> = entries
                .iter()
                .filter(|entry| annotation(entry, REF_NAME).is_some())
                .cloned()
                .collect();
            entries.retain(|entry| !named.iter().any(|named| is_unnamed(entry, named)));
        })
    }

    /// Removes the entries for which `is_kept` returns false. Entries of unknown kinds stay.
    pub(super) fn retain_entries(
        &self,
        is_kept: impl Fn(&LayoutEntry) -> bool,
    ) -> Result<(), StoreError> {
        self.change_index(|entries| {
            entries.retain(|written| read_entry(written).is_none_or(|entry| is_kept(&entry)));
        })
    }

    /// Records what this reference refers to at its registry, replacing an earlier entry.
    pub(crate) fn record_reference(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
    ) -> Result<(), StoreError> {
        self.replace_entry(REF_NAME, &reference.to_string(), Some(descriptor))
    }

    /// Returns the artifact with this image's machine settings, as recorded at the last pull.
    pub(crate) fn find_settings(
        &self,
        reference: &Reference,
        manifest: &Digest,
    ) -> Result<Option<Descriptor>, StoreError> {
        self.find_entry(SETTINGS_OF, &settings_name(reference, manifest))
    }

    /// Records the artifact with this image's machine settings, or that there is none.
    pub(crate) fn record_settings(
        &self,
        reference: &Reference,
        manifest: &Digest,
        artifact: Option<&Descriptor>,
    ) -> Result<(), StoreError> {
        self.replace_entry(SETTINGS_OF, &settings_name(reference, manifest), artifact)
    }

    fn find_entry(&self, key: &str, name: &str) -> Result<Option<Descriptor>, StoreError> {
        let index = self.read_index()?;
        let mut entries = index.manifests().iter();
        let found = entries.find(|entry| is_named(entry, key, name));
        Ok(found.and_then(|entry| Descriptor::try_from(entry).ok()))
    }

    fn replace_entry(
        &self,
        key: &str,
        name: &str,
        descriptor: Option<&Descriptor>,
    ) -> Result<(), StoreError> {
        let new = descriptor.map(|descriptor| {
            let annotations = HashMap::from([(key.to_owned(), name.to_owned())]);
            self.built(entry(descriptor, annotations))
        });
        let new = new.transpose()?;
        self.change_index(|entries| {
            entries.retain(|entry| !is_named(entry, key, name));
            entries.extend(new);
        })
    }

    fn change_index(
        &self,
        change: impl FnOnce(&mut Vec<WrittenDescriptor>),
    ) -> Result<(), StoreError> {
        let _lock = lock_blocking(&self.lock_path("index"))?;
        let mut index = self.read_index()?;
        let mut entries = index.manifests().clone();
        change(&mut entries);
        // Pulls of unchanged images are frequent: do not rewrite and sync the file for them.
        if &entries == index.manifests() {
            return Ok(());
        }
        index.set_manifests(entries);
        let text = self.built(index.to_string_pretty())?;
        self.replace(&self.index_path(), text.as_bytes())
    }

    fn read_index(&self) -> Result<ImageIndex, StoreError> {
        read_index(&self.index_path())
    }

    fn index_path(&self) -> PathBuf {
        self.root.join(INDEX)
    }

    fn built<T>(&self, built: Result<T, OciSpecError>) -> Result<T, StoreError> {
        built.map_err(not_written(&self.index_path()))
    }
}

fn read_index(path: &Path) -> Result<ImageIndex, StoreError> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(StoreError::malformed(path)),
        Err(error) if error.kind() == ErrorKind::NotFound => ImageIndexBuilder::default()
            .schema_version(2u32)
            .media_type(MediaType::ImageIndex)
            .manifests([])
            .build()
            .map_err(not_written(path)),
        Err(error) => Err(StoreError::io("read", path)(error)),
    }
}

fn not_written(path: &Path) -> impl FnOnce(OciSpecError) -> StoreError {
    let failed = StoreError::io("write", path);
    move |error| failed(std::io::Error::other(error))
}

/// Parses an entry. Returns `None` for an entry of an unknown kind.
fn read_entry(written: &WrittenDescriptor) -> Option<LayoutEntry> {
    let descriptor = Descriptor::try_from(written).ok()?;
    if let Some(image) = annotation(written, SETTINGS_OF) {
        let (_, manifest) = image.rsplit_once('@')?;
        return Some(LayoutEntry::Settings(descriptor, manifest.parse().ok()?));
    }
    let name = annotation(written, REF_NAME);
    let reference = name.and_then(|name| Reference::parse(name, "docker.io").ok());
    Some(LayoutEntry::Image(descriptor, reference))
}

fn annotation<'a>(entry: &'a WrittenDescriptor, key: &str) -> Option<&'a str> {
    let annotations = entry.annotations().as_ref();
    annotations.and_then(|all| all.get(key)).map(String::as_str)
}

fn is_named(entry: &WrittenDescriptor, key: &str, name: &str) -> bool {
    annotation(entry, key) == Some(name)
}

/// Whether `entry` is the unnamed entry of the image in the other entry.
fn is_unnamed(entry: &WrittenDescriptor, image: &WrittenDescriptor) -> bool {
    entry.digest() == image.digest()
        && annotation(entry, REF_NAME).is_none()
        && annotation(entry, SETTINGS_OF).is_none()
}

/// Returns the value of [`SETTINGS_OF`]. It names the repository, not the tag: the same manifest in
/// another repository may have other settings.
fn settings_name(reference: &Reference, manifest: &Digest) -> String {
    let (registry, repository) = (reference.registry(), reference.repository());
    format!("{registry}/{repository}@{manifest}")
}

fn entry(
    descriptor: &Descriptor,
    annotations: HashMap<String, String>,
) -> Result<WrittenDescriptor, OciSpecError> {
    let digest: oci_spec::image::Digest = descriptor.digest.to_string().parse()?;
    DescriptorBuilder::default()
        .media_type(MediaType::from(descriptor.media_type.as_str()))
        .digest(digest)
        .size(descriptor.size)
        .annotations(annotations)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(content: &[u8]) -> Descriptor {
        Descriptor {
            digest: Digest::compute(content),
            media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
            size: content.len() as u64,
        }
    }

    #[test]
    fn a_reference_refers_to_what_was_recorded_last() {
        let root = tempfile::tempdir().unwrap();
        let store = ImageStore::open(root.path()).unwrap();
        let one = Reference::parse("one", "docker.io").unwrap();
        let two = Reference::parse("two", "docker.io").unwrap();
        assert_eq!(store.find_reference(&one).unwrap(), None);
        store.record_reference(&one, &descriptor(b"old")).unwrap();
        store.record_reference(&two, &descriptor(b"two")).unwrap();
        store.record_reference(&one, &descriptor(b"new")).unwrap();
        assert_eq!(
            store.find_reference(&one).unwrap(),
            Some(descriptor(b"new"))
        );
        assert_eq!(
            store.find_reference(&two).unwrap(),
            Some(descriptor(b"two"))
        );
        assert_eq!(store.read_index().unwrap().manifests().len(), 2);
    }

    #[test]
    fn concurrent_records_are_all_kept() {
        let root = tempfile::tempdir().unwrap();
        std::thread::scope(|threads| {
            for writer in 0..8 {
                let root = root.path();
                threads.spawn(move || {
                    let store = ImageStore::open(root).unwrap();
                    for image in 0..5 {
                        let name = format!("image-{writer}-{image}");
                        let reference = Reference::parse(&name, "docker.io").unwrap();
                        store
                            .record_reference(&reference, &descriptor(name.as_bytes()))
                            .unwrap();
                    }
                });
            }
        });
        let store = ImageStore::open(root.path()).unwrap();
        assert_eq!(store.read_index().unwrap().manifests().len(), 40);
    }

    #[test]
    fn a_broken_index_is_an_error_that_names_it() {
        let root = tempfile::tempdir().unwrap();
        let store = ImageStore::open(root.path()).unwrap();
        fs::write(root.path().join("index.json"), "{").unwrap();
        let one = Reference::parse("one", "docker.io").unwrap();
        let error = store.record_reference(&one, &descriptor(b"x")).unwrap_err();
        assert!(error.to_string().contains("index.json"), "{error}");
        assert_eq!(fs::read(root.path().join("index.json")).unwrap(), b"{");
    }
}
