//! Which references are known (image-spec, image-layout.md, "index.json file").

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

use super::{Hold, ImageStore, StoreError, StoredImage, lock::lock_here};
use crate::{Descriptor, Digest, Reference};

const INDEX: &str = "index.json";
/// The annotation that the specification has for a reference.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Our own, on an artifact with machine settings: the image that they are for.
const SETTINGS_OF: &str = "container.machine-settings.image";
/// Our own, on a reference that was given here and not at a registry.
const GIVEN_HERE: &str = "container.given-here";
/// Our own, on such a reference that another program on this host knows too.
const TAKEN_OVER: &str = "container.taken-over";

/// What the index says, an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry {
    /// An image and what it is called, if anything.
    Image(Descriptor, Option<Reference>),
    /// An artifact with settings of the image with this manifest.
    Settings(Descriptor, Digest),
}

/// Every reference that means something in the store in this directory, which is not touched; for
/// those who want to know no more.
///
/// # Errors
/// [`StoreError`] if the store cannot be read.
pub fn references(root: &Path) -> Result<Vec<Reference>, StoreError> {
    let index = read_index(&root.join(INDEX))?;
    let entries = index.manifests().iter().filter_map(read_entry);
    let named = entries.filter_map(|entry| match entry {
        Entry::Image(_, name) => name,
        Entry::Settings(..) => None,
    });
    Ok(named.collect())
}

impl Entry {
    pub(super) fn image(&self) -> Option<&Descriptor> {
        match self {
            Entry::Image(image, _) => Some(image),
            Entry::Settings(..) => None,
        }
    }
}

impl ImageStore {
    /// What this reference meant when it was last pulled.
    pub(crate) fn find(&self, reference: &Reference) -> Result<Option<Descriptor>, StoreError> {
        self.find_entry(REF_NAME, &reference.to_string())
    }

    /// Whether this reference was given here, to an image that was loaded or tagged, so that no
    /// registry can be asked what it means.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read.
    pub(crate) fn is_given_here(&self, reference: &Reference) -> Result<bool, StoreError> {
        self.is_annotated(reference, GIVEN_HERE)
    }

    /// Whether another program on this host had the image under this name, so that it is asked
    /// whether it has another one by now.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read.
    pub(crate) fn is_taken_over(&self, reference: &Reference) -> Result<bool, StoreError> {
        self.is_annotated(reference, TAKEN_OVER)
    }

    fn is_annotated(&self, reference: &Reference, key: &str) -> Result<bool, StoreError> {
        let (index, name) = (self.read_index()?, reference.to_string());
        let mut entries = index.manifests().iter();
        Ok(entries
            .any(|entry| is_named(entry, REF_NAME, &name) && annotation(entry, key).is_some()))
    }

    /// Remembers that another program had what was just given this name.
    pub(crate) fn note_taken_over(&self, reference: &Reference) -> Result<(), StoreError> {
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

    /// Everything that is named, in order.
    pub(super) fn entries(&self) -> Result<Vec<Entry>, StoreError> {
        let index = self.read_index()?;
        Ok(index.manifests().iter().filter_map(read_entry).collect())
    }

    /// Every reference that means something here, and what.
    pub(crate) fn references(&self) -> Result<Vec<(Reference, Descriptor)>, StoreError> {
        let entries = self.entries()?.into_iter();
        let named = entries.filter_map(|entry| match entry {
            Entry::Image(descriptor, Some(reference)) => Some((reference, descriptor)),
            _ => None,
        });
        Ok(named.collect())
    }

    /// Names images here, each with a reference or without, in the place of what these references
    /// meant before. All are named or none.
    pub(crate) fn give(
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
            // An image that has a name now needs no entry without.
            let named: Vec<WrittenDescriptor> = entries
                .iter()
                .filter(|entry| annotation(entry, REF_NAME).is_some())
                .cloned()
                .collect();
            entries.retain(|entry| !named.iter().any(|named| is_unnamed(entry, named)));
        })
    }

    /// Gives an image another name, whatever that meant before. Its machine settings, as its name
    /// `known_as` has them, belong to that name too.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read or written; nothing is named then.
    pub fn tag(
        &self,
        _hold: &Hold,
        image: &StoredImage,
        known_as: Option<&Reference>,
        name: &Reference,
    ) -> Result<(), StoreError> {
        if let Some(known_as) = known_as {
            for variant in &image.variants {
                let manifest = &variant.manifest.digest;
                let settings = self.find_settings(known_as, manifest)?;
                self.remember_settings(name, manifest, settings.as_ref())?;
            }
        }
        self.give(&[(image.descriptor.clone(), Some(name.clone()))])
    }

    /// Keeps only those entries.
    pub(super) fn retain_entries(
        &self,
        is_kept: impl Fn(&Entry) -> bool,
    ) -> Result<(), StoreError> {
        self.change_index(|entries| {
            entries.retain(|written| read_entry(written).is_none_or(|entry| is_kept(&entry)));
        })
    }

    /// Remembers what this reference means, in the place of what it meant before.
    pub(crate) fn remember(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
    ) -> Result<(), StoreError> {
        self.replace_entry(REF_NAME, &reference.to_string(), Some(descriptor))
    }

    /// The artifact that held this image's machine settings when its registry was last asked.
    pub(crate) fn find_settings(
        &self,
        reference: &Reference,
        manifest: &Digest,
    ) -> Result<Option<Descriptor>, StoreError> {
        self.find_entry(SETTINGS_OF, &settings_name(reference, manifest))
    }

    /// Remembers which artifact holds this image's machine settings, or that none does.
    pub(crate) fn remember_settings(
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
        let _lock = lock_here(&self.lock_path("index"))?;
        let mut index = self.read_index()?;
        let mut entries = index.manifests().clone();
        change(&mut entries);
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
        Err(error) => Err(StoreError::io("reading", path)(error)),
    }
}

fn not_written(path: &Path) -> impl FnOnce(OciSpecError) -> StoreError {
    let failed = StoreError::io("writing", path);
    move |error| failed(std::io::Error::other(error))
}

/// None if it is of a kind that we do not know.
fn read_entry(written: &WrittenDescriptor) -> Option<Entry> {
    let descriptor = Descriptor::try_from(written).ok()?;
    if let Some(image) = annotation(written, SETTINGS_OF) {
        let (_, manifest) = image.rsplit_once('@')?;
        return Some(Entry::Settings(descriptor, manifest.parse().ok()?));
    }
    let name = annotation(written, REF_NAME);
    let reference = name.and_then(|name| Reference::parse(name, "docker.io").ok());
    Some(Entry::Image(descriptor, reference))
}

fn annotation<'a>(entry: &'a WrittenDescriptor, key: &str) -> Option<&'a str> {
    let annotations = entry.annotations().as_ref();
    annotations.and_then(|all| all.get(key)).map(String::as_str)
}

fn is_named(entry: &WrittenDescriptor, key: &str, name: &str) -> bool {
    annotation(entry, key) == Some(name)
}

/// Whether this is the same image as that one, without a name.
fn is_unnamed(entry: &WrittenDescriptor, image: &WrittenDescriptor) -> bool {
    entry.digest() == image.digest()
        && annotation(entry, REF_NAME).is_none()
        && annotation(entry, SETTINGS_OF).is_none()
}

/// By repository, not by tag: the same manifest elsewhere may have other settings.
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
            digest: Digest::of(content),
            media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
            size: content.len() as u64,
        }
    }

    #[test]
    fn a_reference_means_what_it_meant_last() {
        let root = tempfile::tempdir().unwrap();
        let store = ImageStore::open(root.path()).unwrap();
        let one = Reference::parse("one", "docker.io").unwrap();
        let two = Reference::parse("two", "docker.io").unwrap();
        assert_eq!(store.find(&one).unwrap(), None);
        store.remember(&one, &descriptor(b"old")).unwrap();
        store.remember(&two, &descriptor(b"two")).unwrap();
        store.remember(&one, &descriptor(b"new")).unwrap();
        assert_eq!(store.find(&one).unwrap(), Some(descriptor(b"new")));
        assert_eq!(store.find(&two).unwrap(), Some(descriptor(b"two")));
        assert_eq!(store.read_index().unwrap().manifests().len(), 2);
    }

    #[test]
    fn many_at_once_are_all_remembered() {
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
                            .remember(&reference, &descriptor(name.as_bytes()))
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
        let error = store.remember(&one, &descriptor(b"x")).unwrap_err();
        assert!(error.to_string().contains("index.json"), "{error}");
        assert_eq!(fs::read(root.path().join("index.json")).unwrap(), b"{");
    }
}
