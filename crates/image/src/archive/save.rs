//! Saving images of the store to an archive.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read, Write},
};

use serde_json::{Value, json};

use crate::{
    Descriptor, Digest, ImageStore, Platform, Reference, SharedGuard, StoredImage, Variant,
    digest::Hasher, store::StoreError,
};

/// Size of a block of a tar archive in bytes.
const BLOCK: u64 = 512;

/// Format of a saved archive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ArchiveFormat {
    /// An OCI image layout.
    #[default]
    Oci,
    /// A layout that also has Docker's `manifest.json`, as `docker save` writes it. Every version
    /// of `docker load` reads it. It has one platform of each image.
    Docker,
}

/// An image to save, with its references in the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageToSave<'a> {
    /// Image in the store, with all platforms that are stored.
    pub image: &'a StoredImage,
    /// Its references in the archive. Without one it can only be loaded as an unnamed image.
    pub references: Vec<Reference>,
}

/// Error of saving an archive.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// Not all blobs of the image are stored for the platform.
    #[error("image {image:?} is not stored for {wanted}; pull it for that platform first")]
    NotStored {
        /// The image's name or digest.
        image: String,
        /// The requested platform, or `any platform`.
        wanted: String,
    },
    /// A blob does not have its digest any more.
    #[error(
        "{0} is damaged on disk; remove the image with `container image rm`, and pull or load it again"
    )]
    Damaged(Digest),
    /// The destination cannot be written.
    #[error("cannot write the archive: {0}")]
    Write(io::Error),
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// One image's entries in an archive's lists.
struct SavedImage {
    /// Its index, or its manifest when one platform is saved.
    top: Descriptor,
    references: Vec<Reference>,
    /// Its entry in Docker's `manifest.json`.
    docker: Value,
}

/// An archive that is ready to be written: all its blobs are stored.
#[derive(Debug)]
pub struct ImageArchive {
    store: ImageStore,
    documents: Vec<(&'static str, Vec<u8>)>,
    blobs: Vec<(Digest, u64)>,
}

impl ImageStore {
    /// Prepares an archive of these images, with all their stored platforms or with `platform`
    /// only. Platforms that are not stored completely are left out.
    ///
    /// # Errors
    /// [`SaveError`] if an image is not stored for any platform, or not for `platform`.
    pub fn prepare_archive(
        &self,
        images: &[ImageToSave<'_>],
        format: ArchiveFormat,
        platform: Option<&Platform>,
    ) -> Result<ImageArchive, SaveError> {
        let mut blobs = BTreeSet::new();
        let mut saved = Vec::new();
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
                blobs.insert(variant.config_descriptor.digest);
                blobs.extend(variant.layers.iter().map(|layer| layer.digest));
            }
            saved.push(SavedImage {
                docker: docker(chosen[0], &to_save.references),
                references: to_save.references.clone(),
                top,
            });
        }
        let mut documents = vec![
            ("oci-layout", json!({"imageLayoutVersion": "1.0.0"})),
            ("index.json", index(&saved)),
        ];
        if format == ArchiveFormat::Docker {
            let all: Vec<Value> = saved.into_iter().map(|image| image.docker).collect();
            documents.push(("manifest.json", Value::from(all)));
        }
        let documents = documents.into_iter();
        let documents = documents.map(|(name, document)| (name, document.to_string().into_bytes()));
        let blobs = blobs.into_iter().map(|digest| {
            let path = self.blob_path(&digest);
            let metadata = std::fs::metadata(&path);
            let metadata = metadata.map_err(StoreError::io("inspect", &path))?;
            Ok((digest, metadata.len()))
        });
        Ok(ImageArchive {
            store: self.clone(),
            documents: documents.collect(),
            blobs: blobs.collect::<Result<_, SaveError>>()?,
        })
    }
}

/// Returns the variants to save, at least one.
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
    if !chosen.is_empty() {
        return Ok(chosen);
    }
    Err(SaveError::NotStored {
        image: match image.references.first() {
            Some(name) => name.to_string(),
            None => image.descriptor.digest.to_string(),
        },
        wanted: platform.map_or("any platform".to_owned(), Platform::to_string),
    })
}

/// Returns `index.json`. Each reference is there twice: for podman, and for containerd and Docker.
fn index(images: &[SavedImage]) -> Value {
    let mut entries = Vec::new();
    for image in images {
        let descriptor = json!({
            "mediaType": image.top.media_type,
            "digest": image.top.digest.to_string(),
            "size": image.top.size,
        });
        for reference in &image.references {
            let mut named = descriptor.clone();
            named["annotations"] = json!({
                "org.opencontainers.image.ref.name": reference.to_string(),
                "io.containerd.image.name": reference.to_string(),
            });
            entries.push(named);
        }
        if image.references.is_empty() {
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
        "Config": name(&variant.config_descriptor.digest),
        "RepoTags": tags,
        "Layers": layers.collect::<Vec<String>>(),
    })
}

fn name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

impl ImageArchive {
    /// Returns the exact size in bytes of the tar stream: for each member a header and the content
    /// in whole blocks, and two empty blocks at the end.
    pub fn tar_size(&self) -> u64 {
        let documents = self.documents.iter().map(|(_, text)| text.len() as u64);
        let members = documents.chain(self.blobs.iter().map(|(_, size)| *size));
        let blocks: u64 = members.map(|size| 1 + size.div_ceil(BLOCK)).sum();
        (blocks + 2) * BLOCK
    }

    /// Writes the archive as a tar stream and checks every blob's digest. Works on the calling
    /// thread. `_shared` protects the blobs from removal.
    ///
    /// # Errors
    /// [`SaveError`]. The bytes written so far are not a valid archive then.
    pub fn write(&self, _shared: &SharedGuard, to: impl Write) -> Result<(), SaveError> {
        let mut tar = tar::Builder::new(to);
        for (name, document) in &self.documents {
            let mut header = header(document.len() as u64);
            let appended = tar.append_data(&mut header, name, document.as_slice());
            appended.map_err(SaveError::Write)?;
        }
        for (digest, size) in &self.blobs {
            let path = self.store.blob_path(digest);
            let file = File::open(&path).map_err(StoreError::io("read", &path))?;
            let mut hashed = HashingReader {
                file,
                hasher: Hasher::default(),
            };
            let mut header = header(*size);
            let appended = tar.append_data(&mut header, name(digest), (&mut hashed).take(*size));
            appended.map_err(SaveError::Write)?;
            if hashed.hasher.finish() != *digest {
                return Err(SaveError::Damaged(*digest));
            }
        }
        let mut to = tar.into_inner().map_err(SaveError::Write)?;
        to.flush().map_err(SaveError::Write)
    }
}

/// Returns a header without owner and timestamp, so that the same images give the same archive.
fn header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_size(size);
    header.set_mode(0o644);
    header
}

/// A file that is hashed while it is read.
struct HashingReader {
    file: File,
    hasher: Hasher,
}

impl Read for HashingReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}
