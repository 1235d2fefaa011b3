//! Which references are known (image-spec, image-layout.md, "index.json file").

use std::{collections::HashMap, fs, io::ErrorKind, path::PathBuf};

use oci_spec::{
    OciSpecError,
    image::{
        Descriptor as WrittenDescriptor, DescriptorBuilder, ImageIndex, ImageIndexBuilder,
        MediaType,
    },
};

use super::{ImageStore, StoreError, lock::lock_here};
use crate::{Descriptor, Digest, Reference};

/// The annotation that the specification has for a reference.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Our own, on an artifact with machine settings: the image that they are for.
const SETTINGS_OF: &str = "container.machine-settings.image";

impl ImageStore {
    /// What this reference meant when it was last pulled.
    pub(crate) fn find(&self, reference: &Reference) -> Result<Option<Descriptor>, StoreError> {
        self.find_entry(REF_NAME, &reference.to_string())
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
        let _lock = lock_here(&self.lock_path("index"))?;
        let mut index = self.read_index()?;
        let mut entries = index.manifests().clone();
        entries.retain(|entry| !is_named(entry, key, name));
        if let Some(descriptor) = descriptor {
            entries.push(self.built(entry(descriptor, key, name))?);
        }
        if &entries == index.manifests() {
            return Ok(());
        }
        index.set_manifests(entries);
        let text = self.built(index.to_string_pretty())?;
        self.replace(&self.index_path(), text.as_bytes())
    }

    fn read_index(&self) -> Result<ImageIndex, StoreError> {
        let path = self.index_path();
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(StoreError::malformed(&path)),
            Err(error) if error.kind() == ErrorKind::NotFound => self.built(
                ImageIndexBuilder::default()
                    .schema_version(2u32)
                    .media_type(MediaType::ImageIndex)
                    .manifests([])
                    .build(),
            ),
            Err(error) => Err(StoreError::io("reading", &path)(error)),
        }
    }

    fn index_path(&self) -> PathBuf {
        self.root.join("index.json")
    }

    fn built<T>(&self, built: Result<T, OciSpecError>) -> Result<T, StoreError> {
        built.map_err(|error| {
            StoreError::io("writing", &self.index_path())(std::io::Error::other(error))
        })
    }
}

fn is_named(entry: &WrittenDescriptor, key: &str, name: &str) -> bool {
    let annotations = entry.annotations().as_ref();
    annotations.and_then(|all| all.get(key)).map(String::as_str) == Some(name)
}

/// By repository, not by tag: the same manifest elsewhere may have other settings.
fn settings_name(reference: &Reference, manifest: &Digest) -> String {
    let (registry, repository) = (reference.registry(), reference.repository());
    format!("{registry}/{repository}@{manifest}")
}

fn entry(
    descriptor: &Descriptor,
    key: &str,
    name: &str,
) -> Result<WrittenDescriptor, OciSpecError> {
    let digest: oci_spec::image::Digest = descriptor.digest.to_string().parse()?;
    DescriptorBuilder::default()
        .media_type(MediaType::from(descriptor.media_type.as_str()))
        .digest(digest)
        .size(descriptor.size)
        .annotations(HashMap::from([(key.to_owned(), name.to_owned())]))
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
