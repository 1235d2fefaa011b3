//! Extracting a kernel from a tar archive.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Write},
    path::{Component, Path, PathBuf},
};

use crate::{compression::decompress, image_error::MAX_SIZE};

/// Limit of links that are followed in an archive.
const MAX_LINKS: usize = 8;

/// Limit of the decompressed archive. Users choose their archives, and those with many kernels are
/// large; only fuzzing needs one, because a small input can decompress to a huge one.
const MAX_ARCHIVE: u64 = if cfg!(fuzzing) { 64 << 20 } else { u64::MAX };

/// Error of extracting a kernel.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// The archive cannot be read.
    #[error("cannot read archive {archive}: {cause}", archive = .archive.display())]
    Read {
        /// Path of the archive.
        archive: PathBuf,
        /// Error of the system call or of the decompression.
        cause: io::Error,
    },
    /// The file cannot be created.
    #[error("cannot write {path}: {cause}", path = .path.display())]
    Write {
        /// Path of the extracted file.
        path: PathBuf,
        /// Error of the system call.
        cause: io::Error,
    },
    /// The file is in another format.
    #[error(
        "{archive} is not a tar archive, plain or compressed with gzip, xz or zstd",
        archive = .archive.display()
    )]
    NotAnArchive {
        /// Path of the file.
        archive: PathBuf,
    },
    /// The archive does not contain the member.
    #[error(
        "file {member} not found in archive {archive}{candidates}",
        member = .member.display(),
        archive = .archive.display(),
        candidates = list(.candidates)
    )]
    NotFound {
        /// Path of the archive.
        archive: PathBuf,
        /// Path in the archive.
        member: PathBuf,
        /// Members that have a kernel's name.
        candidates: Vec<PathBuf>,
    },
    /// The member is a link, which leads to a link, and so on.
    #[error("{member} in archive {archive}: too many links", archive = .archive.display())]
    TooManyLinks {
        /// Path of the archive.
        archive: PathBuf,
        /// Path in the archive.
        member: String,
    },
}

/// Extracts one file from a tar archive, plain or compressed, to the path `to`. Links in the
/// archive are followed.
///
/// # Errors
/// If the archive cannot be read or does not contain the file, or `to` cannot be written.
pub fn extract(archive: &Path, member: &str, to: &Path) -> Result<(), ExtractError> {
    let failed = |cause| ExtractError::Read {
        archive: archive.to_owned(),
        cause,
    };
    let mut file = File::create(to).map_err(|cause| ExtractError::Write {
        path: to.to_owned(),
        cause,
    })?;
    let mut wanted = normalize(Path::new(member));
    for _ in 0..MAX_LINKS {
        let stream = BufReader::new(File::open(archive).map_err(failed)?);
        match copy_member(stream, &wanted, &mut file).map_err(failed)? {
            Lookup::Copied => return Ok(()),
            Lookup::Link(target) => wanted = target,
            Lookup::NotFound { candidates } => {
                return Err(ExtractError::NotFound {
                    archive: archive.to_owned(),
                    member: wanted,
                    candidates,
                });
            }
            Lookup::NotAnArchive => {
                return Err(ExtractError::NotAnArchive {
                    archive: archive.to_owned(),
                });
            }
        }
    }
    Err(ExtractError::TooManyLinks {
        archive: archive.to_owned(),
        member: member.to_owned(),
    })
}

/// The result of one pass over an archive.
pub(crate) enum Lookup {
    /// The member was a file and has been copied.
    Copied,
    /// The member is a link to this member.
    Link(PathBuf),
    NotFound {
        candidates: Vec<PathBuf>,
    },
    NotAnArchive,
}

/// Copies the member with this normalized path from an archive.
pub(crate) fn copy_member(
    archive: impl BufRead,
    wanted: &Path,
    to: &mut impl Write,
) -> io::Result<Lookup> {
    let mut candidates = Vec::new();
    let mut archive = tar::Archive::new(decompress(archive)?.take(MAX_ARCHIVE));
    for (number, member) in archive.entries()?.enumerate() {
        // Other formats fail at the first header, whose checksum does not match.
        if number == 0 && member.is_err() {
            return Ok(Lookup::NotAnArchive);
        }
        let mut member = member?;
        let path = normalize(&member.path()?);
        if path != wanted {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with("vmlinu") || name.starts_with("bzImage") {
                candidates.push(path);
            }
            continue;
        }
        if let Some(target) = member.link_name()? {
            // A symbolic link is relative to its directory; a hard link is a path in the archive.
            let is_symbolic = member.header().entry_type().is_symlink();
            let base = wanted
                .parent()
                .filter(|_| is_symbolic && target.is_relative());
            let target = base.unwrap_or(Path::new("")).join(target);
            return Ok(Lookup::Link(normalize(&target)));
        }
        io::copy(&mut member.by_ref().take(MAX_SIZE), to)?;
        return Ok(Lookup::Copied);
    }
    Ok(Lookup::NotFound { candidates })
}

/// Resolves `.` and `..` in a path, and removes its root.
pub(crate) fn normalize(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => normal.push(name),
            Component::ParentDir => {
                normal.pop();
            }
            _ => {}
        }
    }
    normal
}

fn list(candidates: &[PathBuf]) -> String {
    if candidates.is_empty() {
        return String::new();
    }
    let lines = candidates
        .iter()
        .map(|path| format!("\n  {}", path.display()));
    let lines: String = lines.collect();
    format!("; kernels in it may be:{lines}")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_kernel_is_extracted_through_links() {
        let directory = tempfile::tempdir().unwrap();
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        tar.append_link(&mut header, "./opt/vmlinux.link", "../opt/vmlinux-6")
            .unwrap();
        tar.append_link(&mut header, "./opt/loop", "loop").unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_size(6);
        header.set_mode(0o644);
        tar.append_data(&mut header, "./opt/vmlinux-6", &b"kernel"[..])
            .unwrap();
        let bytes = tar.into_inner().unwrap();
        let zstd = zstd::encode_all(&bytes[..], 1).unwrap();
        for (name, bytes) in [("a.tar", bytes), ("a.tar.zst", zstd)] {
            let archive = directory.path().join(name);
            fs::write(&archive, bytes).unwrap();
            let to = directory.path().join("kernel");
            for member in ["opt/vmlinux-6", "/opt/vmlinux.link"] {
                extract(&archive, member, &to).unwrap();
                assert_eq!(fs::read(&to).unwrap(), b"kernel");
            }
            let refused = |member: &str| extract(&archive, member, &to).unwrap_err().to_string();
            assert!(refused("opt/none").contains("opt/vmlinux-6"));
            assert!(refused("opt/loop").contains("too many links"));
        }
        let other = directory.path().join("a.tar.bz2");
        fs::write(&other, [b"BZh91AY&SY".as_slice(), &[0x9c; 1024]].concat()).unwrap();
        let error = extract(&other, "opt/none", &directory.path().join("kernel")).unwrap_err();
        assert!(error.to_string().contains("gzip, xz or zstd"), "{error}");
    }
}
