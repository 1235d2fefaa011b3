//! Writing machine archives.

use std::{
    fs::File,
    io::{self, Write},
    path::PathBuf,
};

use container_image::{ImageArchive, SaveError, SharedGuard};
use container_machine::NewBundle;
use tar::{Builder, Header, HeaderMode};

use super::{BASE, DESCRIPTION, Description, IMAGE, SETUP_SCRIPT};

/// Compression level. Higher ones take several times as long and save little on disks.
const LEVEL: i32 = 3;

/// An archive that is ready to be written.
pub(crate) struct MachineArchive {
    /// Description, which lists the members.
    pub(crate) description: Description,
    /// Content of the set-up script.
    pub(crate) setup_script: Option<Vec<u8>>,
    /// Unfinished bundle with links to the layers, which keeps them while the machine goes its own
    /// way.
    pub(crate) layers: NewBundle,
    /// Path of the base.
    pub(crate) base: Option<PathBuf>,
    /// Archive of the image.
    pub(crate) image: Option<ImageArchive>,
    /// Protects base and image from removal.
    pub(crate) images: SharedGuard,
}

impl MachineArchive {
    /// Writes the archive. Works on the calling thread.
    ///
    /// # Errors
    /// [`SaveError`]. The bytes written so far are not a valid archive then.
    pub(crate) fn write(self, to: impl Write) -> Result<(), SaveError> {
        let mut compressed = zstd::Encoder::new(to, LEVEL).map_err(SaveError::Write)?;
        compressed
            .include_checksum(true)
            .map_err(SaveError::Write)?;
        let mut tar = Builder::new(compressed);
        // Without owners and times.
        tar.mode(HeaderMode::Deterministic);
        self.write_files(&mut tar).map_err(SaveError::Write)?;
        if let Some(image) = &self.image {
            let mut header = header(image.tar_size());
            header.set_path(IMAGE).map_err(SaveError::Write)?;
            header.set_cksum();
            let to = tar.get_mut();
            to.write_all(header.as_bytes()).map_err(SaveError::Write)?;
            // Its size is a multiple of the block size, so it needs no padding.
            image.write(&self.images, to)?;
        }
        let finish = || tar.into_inner()?.finish()?.flush();
        finish().map_err(SaveError::Write)
    }

    fn write_files(&self, tar: &mut Builder<impl Write>) -> io::Result<()> {
        write_bytes(tar, DESCRIPTION, &serde_json::to_vec(&self.description)?)?;
        if let Some(script) = &self.setup_script {
            write_bytes(tar, SETUP_SCRIPT, script)?;
        }
        for layer in &self.description.layers {
            let mut file = File::open(self.layers.disk_file(&layer.file))?;
            tar.append_file(layer.file.as_str(), &mut file)?;
        }
        if let Some(base) = &self.base {
            tar.append_file(BASE, &mut File::open(base)?)?;
        }
        Ok(())
    }
}

fn write_bytes(tar: &mut Builder<impl Write>, name: &str, bytes: &[u8]) -> io::Result<()> {
    tar.append_data(&mut header(bytes.len() as u64), name, bytes)
}

fn header(size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_size(size);
    header.set_mode(0o600);
    header
}
