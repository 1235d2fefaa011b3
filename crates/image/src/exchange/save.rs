//! From the store into an archive.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read, Write},
};

use serde_json::{Value, json};

use crate::{
    Descriptor, Digest, Hold, ImageStore, Platform, Reference, StoredImage, Variant,
    digest::Hasher, store::StoreError,
};

/// What an archive looks like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ArchiveFormat {
    /// An OCI image layout.
    #[default]
    Oci,
    /// A layout with docker's `manifest.json` in it as well, as `docker save` writes it: every
    /// version of `docker load` reads it. It has one platform of each image.
    Docker,
}

/// An image that is to be saved, and what it is to be called in the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageToSave<'a> {
    /// The image.
    pub image: &'a StoredImage,
    /// Its names; without one it can be found by its digest only.
    pub references: Vec<Reference>,
}

/// Why an archive is not written, or not whole.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// The image is not complete.
    #[error("the image {image} is not here for {wanted}: pull it for that platform first")]
    NotHere {
        /// Which image.
        image: String,
        /// The platform that was asked for, or any.
        wanted: String,
    },
    /// Content was damaged on disk.
    #[error(
        "{0} was damaged on disk: remove the image with `container image rm`, and pull or load it again"
    )]
    Damaged(Digest),
    /// The archive cannot be written.
    #[error("the archive cannot be written: {0}")]
    Write(#[source] io::Error),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What one image puts into an archive.
struct Part {
    top: Descriptor,
    references: Vec<Reference>,
    /// What docker's `manifest.json` says of it.
    docker: Value,
}

/// An archive that can be written: all that is to be in it is here.
#[derive(Debug)]
pub struct Archive {
    store: ImageStore,
    documents: Vec<(&'static str, Vec<u8>)>,
    blobs: Vec<(Digest, u64)>,
}

impl ImageStore {
    /// Prepares an archive of these images; with a platform, of what they are for that one alone.
    /// What of an image is not here for other platforms is left out.
    ///
    /// # Errors
    /// [`SaveError`] if one is not here for any platform, or not for that one.
    pub fn archive(
        &self,
        images: &[ImageToSave<'_>],
        format: ArchiveFormat,
        platform: Option<&Platform>,
    ) -> Result<Archive, SaveError> {
        let mut blobs = BTreeSet::new();
        let mut parts = Vec::new();
        for to_save in images {
            let (image, chosen) = (to_save.image, chosen(to_save.image, format, platform)?);
            let top = match (chosen.as_slice(), format, platform) {
                ([one], ArchiveFormat::Docker, _) | ([one], _, Some(_)) => one.manifest.clone(),
                _ => image.descriptor.clone(),
            };
            if top == image.descriptor {
                blobs.extend(image.indexes(self)?);
            }
            for variant in &chosen {
                blobs.insert(variant.manifest.digest);
                blobs.insert(variant.config.digest);
                blobs.extend(variant.layers.iter().map(|layer| layer.digest));
            }
            parts.push(Part {
                docker: docker(chosen[0], &to_save.references),
                references: to_save.references.clone(),
                top,
            });
        }
        let mut documents = vec![
            ("oci-layout", json!({"imageLayoutVersion": "1.0.0"})),
            ("index.json", index(&parts)),
        ];
        if format == ArchiveFormat::Docker {
            let all: Vec<Value> = parts.into_iter().map(|part| part.docker).collect();
            documents.push(("manifest.json", Value::from(all)));
        }
        let documents = documents.into_iter();
        let documents = documents.map(|(name, document)| (name, document.to_string().into_bytes()));
        let blobs = blobs.into_iter().map(|digest| {
            let path = self.blob_path(&digest);
            let about = std::fs::metadata(&path);
            let about = about.map_err(StoreError::io("looking at", &path))?;
            Ok((digest, about.len()))
        });
        Ok(Archive {
            store: self.clone(),
            documents: documents.collect(),
            blobs: blobs.collect::<Result<_, SaveError>>()?,
        })
    }
}

/// The variants that go into an archive; one at least.
fn chosen<'a>(
    image: &'a StoredImage,
    format: ArchiveFormat,
    platform: Option<&Platform>,
) -> Result<Vec<&'a Variant>, SaveError> {
    let chosen: Vec<&Variant> = match (platform, format) {
        (Some(platform), _) => image.variant_for(platform).into_iter().collect(),
        (None, ArchiveFormat::Docker) => image.variant(&Platform::host()).into_iter().collect(),
        (None, ArchiveFormat::Oci) => image.variants.iter().collect(),
    };
    match chosen.is_empty() {
        false => Ok(chosen),
        true => Err(SaveError::NotHere {
            image: match image.references.first() {
                Some(name) => name.to_string(),
                None => image.descriptor.digest.to_string(),
            },
            wanted: platform.map_or("any platform".to_owned(), Platform::to_string),
        }),
    }
}

/// A name in `index.json`, as podman and as containerd and Docker look for it.
fn index(parts: &[Part]) -> Value {
    let mut entries = Vec::new();
    for part in parts {
        let descriptor = json!({
            "mediaType": part.top.media_type,
            "digest": part.top.digest.to_string(),
            "size": part.top.size,
        });
        for reference in &part.references {
            let mut named = descriptor.clone();
            named["annotations"] = json!({
                "org.opencontainers.image.ref.name": reference.to_string(),
                "io.containerd.image.name": reference.to_string(),
            });
            entries.push(named);
        }
        if part.references.is_empty() {
            entries.push(descriptor);
        }
    }
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": entries,
    })
}

fn docker(variant: &Variant, references: &[Reference]) -> Value {
    let tags = references.iter().filter(|it| it.digest().is_none());
    let tags: Vec<String> = tags.map(Reference::to_string).collect();
    let layers = variant.layers.iter().map(|layer| name(&layer.digest));
    json!({
        "Config": name(&variant.config.digest),
        "RepoTags": tags,
        "Layers": layers.collect::<Vec<String>>(),
    })
}

fn name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

impl Archive {
    /// Bytes of content that it will have, roughly.
    pub fn size(&self) -> u64 {
        self.blobs.iter().map(|(_, size)| size).sum()
    }

    /// Writes it as a tar stream, every blob checked on its way. Works on the calling thread.
    /// `_hold` keeps what is written.
    ///
    /// # Errors
    /// [`SaveError`]; what has been written is no archive then.
    pub fn write(&self, _hold: &Hold, to: impl Write) -> Result<(), SaveError> {
        let mut tar = tar::Builder::new(to);
        for (name, document) in &self.documents {
            let mut header = header(document.len() as u64);
            let appended = tar.append_data(&mut header, name, document.as_slice());
            appended.map_err(SaveError::Write)?;
        }
        for (digest, size) in &self.blobs {
            let path = self.store.blob_path(digest);
            let file = File::open(&path).map_err(StoreError::io("reading", &path))?;
            let mut checked = Checked {
                file,
                hasher: Hasher::default(),
            };
            let mut header = header(*size);
            let appended = tar.append_data(&mut header, name(digest), (&mut checked).take(*size));
            appended.map_err(SaveError::Write)?;
            if checked.hasher.finish() != *digest {
                return Err(SaveError::Damaged(*digest));
            }
        }
        let mut to = tar.into_inner().map_err(SaveError::Write)?;
        to.flush().map_err(SaveError::Write)
    }
}

/// The same images make the same archive.
fn header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_size(size);
    header.set_mode(0o644);
    header
}

/// A file that is hashed while it is read.
struct Checked {
    file: File,
    hasher: Hasher,
}

impl Read for Checked {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}
