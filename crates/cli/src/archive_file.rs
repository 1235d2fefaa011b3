//! Archives that a command writes to a file or reads from one, or from the standard streams.

use std::{
    fs,
    io::{self, IsTerminal},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use container_api::Progress;
use container_client::ClientError;
use tokio::{
    fs::File,
    io::{AsyncRead, AsyncWrite},
};

use crate::{
    failure::Failure,
    progress::{ProgressMode, show_while},
};

/// Source of an archive.
pub(crate) type ArchiveSource = Box<dyn AsyncRead + Send + Unpin>;

/// Destination of an archive.
pub(crate) type ArchiveDestination = Box<dyn AsyncWrite + Send + Unpin>;

/// Archive that a command writes, whose contents may be private or not.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewArchive<'a> {
    /// Path, or `-` for standard output.
    pub path: &'a Path,
    /// Mode of a new file, reduced by the umask.
    pub mode: u32,
}

impl NewArchive<'_> {
    /// Writes the archive with `write`, showing its progress. A regular file appears only once it
    /// is complete.
    pub(crate) async fn write(
        self,
        mode: ProgressMode,
        write: impl AsyncFnOnce(ArchiveDestination, &mut dyn FnMut(Progress)) -> Result<(), ClientError>,
    ) -> Result<(), Failure> {
        let cancelled = "Cancelled; no archive was written.";
        let path = self.path;
        if path == Path::new("-") {
            if io::stdout().is_terminal() {
                return Err(Failure::new(
                    "cannot write an archive to a terminal (name a file with --output, or use a pipe)",
                ));
            }
            let to = Box::new(tokio::io::stdout());
            return show_while(mode, cancelled, async |show| write(to, show).await).await;
        }
        let cannot_write = || Failure::cannot(format!("write {}", path.display()));
        if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
            // A device or a named pipe is written to, not replaced.
            let file = File::options().write(true).open(path).await;
            let to = Box::new(file.map_err(cannot_write())?);
            return show_while(mode, cancelled, async |show| write(to, show).await).await;
        }
        let new = self.temporary_file().map_err(cannot_write())?;
        let file = new.as_file().try_clone().map_err(cannot_write())?;
        let to = Box::new(File::from_std(file));
        show_while(mode, cancelled, async |show| write(to, show).await).await?;
        new.persist(path)
            .map_err(|error| cannot_write()(error.error))?;
        Ok(())
    }

    /// Creates a temporary file in the archive's directory, so that it can be renamed.
    fn temporary_file(&self) -> io::Result<tempfile::NamedTempFile> {
        let directory = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        tempfile::Builder::new()
            .prefix(".container-archive-")
            .permissions(fs::Permissions::from_mode(self.mode))
            .tempfile_in(directory)
    }
}

/// Opens the archive at a path, or standard input for `-`.
pub(crate) async fn open(path: &Path) -> Result<ArchiveSource, Failure> {
    if path == Path::new("-") {
        if io::stdin().is_terminal() {
            return Err(Failure::new(
                "cannot read an archive from a terminal (name a file, or use a pipe)",
            ));
        }
        return Ok(Box::new(tokio::io::stdin()));
    }
    let file = File::open(path).await;
    let file = file.map_err(Failure::cannot(format!("open {}", path.display())))?;
    Ok(Box::new(file))
}
