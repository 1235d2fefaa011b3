//! `container system kernel set`

use std::{
    fmt,
    fs::File,
    io::{self, BufReader, Read},
    path::{Component, Path, PathBuf},
};

use clap::{ArgGroup, Args};
use container_api::RecommendedKernel;
use container_client::Client;
use container_kernel::{KernelName, Kernels, decompress};

use super::download::{Digest, Fetched, fetch};
use crate::{
    failure::Failure,
    output,
    progress::{ProgressMode, shown},
};

/// Larger kernels are refused.
const LARGEST: u64 = 512 << 20;

/// Links in an archive that are followed one behind the other.
const MOST_LINKS: usize = 8;

/// Choose the kernel that machines boot; or add one, and choose that.
///
/// A kernel is an ELF file (vmlinux) or a bzImage (vmlinuz), or lies in a tar archive, plain or compressed
/// with gzip, xz or zstd. What comes from another computer needs its digest. A kernel with modules finds
/// them in lib/modules around it or on this computer.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("what").required(true).multiple(true)
        .args(["chosen", "binary", "tar", "recommended"]),
    after_long_help = "\
Examples:
  container system kernel set debian
  container system kernel set --binary /boot/vmlinuz-6.1.0-40-amd64
  container system kernel set --binary https://example.com/vmlinux \\
    --digest sha256:5e1d0c…
  container system kernel set --tar kata.tar.xz --binary opt/kata/vmlinux
  container system kernel set --recommended"
)]
pub struct Set {
    /// The name of one that is there.
    #[arg(value_name = "NAME", conflicts_with_all = ["binary", "tar", "recommended"])]
    chosen: Option<KernelName>,

    /// A kernel's file or address; with --tar its path in the archive.
    #[arg(long, value_name = "PATH|URL")]
    binary: Option<String>,

    /// An archive with the kernel: a file, or an address.
    #[arg(long, value_name = "PATH|URL", requires = "binary")]
    tar: Option<String>,

    /// What is fetched has this digest: `sha256:` and 64 hexadecimal digits.
    #[arg(long, value_name = "DIGEST")]
    digest: Option<Digest>,

    /// The kernel that section [kernel] of config.toml names.
    #[arg(long, conflicts_with_all = ["binary", "tar", "digest"])]
    recommended: bool,

    /// What it is to be called; its file's name where this is left out.
    #[arg(long, conflicts_with = "chosen")]
    name: Option<KernelName>,

    /// How to show progress.
    #[arg(long, value_enum, default_value_t, value_name = "MODE")]
    progress: ProgressMode,
}

/// Where a kernel, or an archive with one, lies.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// An absolute path.
    File(PathBuf),
    /// Of http or https.
    Address(String),
}

impl Place {
    fn of(word: &str) -> Result<Place, Failure> {
        let Some((scheme, _)) = word.split_once("://") else {
            return Ok(Place::File(std::path::absolute(word)?));
        };
        let path = || reqwest::Url::parse(word).ok()?.to_file_path().ok();
        match (scheme, path()) {
            ("http" | "https", _) => Ok(Place::Address(word.to_owned())),
            ("file", Some(path)) => Ok(Place::File(path)),
            _ => Err(Failure::new(format!(
                "{word} cannot be read: give the path of a file, or an address of https, http or file"
            ))),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File(path) => path.display().fmt(formatter),
            Place::Address(url) => formatter.write_str(url),
        }
    }
}

/// Where a kernel comes from.
struct Source {
    place: Place,
    /// Its path in the archive, if the place is one.
    member: Option<String>,
    digest: Option<Digest>,
}

impl Set {
    pub async fn carry_out(self, kernels: &Kernels, build: &str) -> Result<(), Failure> {
        let kernel = match &self.chosen {
            Some(chosen) => kernels.set_default(chosen)?,
            None => {
                let source = self.source(build).await?;
                let name = match &self.name {
                    Some(name) => name.clone(),
                    None => source.name()?,
                };
                // Before anything is fetched for nothing.
                if kernels.get(&name).is_ok() {
                    return Err(container_kernel::KernelsError::Exists(name).into());
                }
                let fetched = self.fetched(&source).await?;
                let scratch = tempfile::tempdir()?;
                let image = match &source.member {
                    Some(member) => {
                        let image = scratch.path().join("kernel");
                        extract(fetched.path(), member, &image)?;
                        image
                    }
                    None => fetched.path().to_owned(),
                };
                kernels.add(&name, &image, source.told())?;
                kernels.set_default(&name)?
            }
        };
        output::line(kernel.name)
    }

    async fn source(&self, build: &str) -> Result<Source, Failure> {
        if self.recommended {
            let system = Client::connect(build).await?.system().await?;
            let Some(RecommendedKernel {
                binary,
                digest,
                url,
            }) = system.kernel.recommended
            else {
                let path = system.directories.config.join("config.toml");
                return Err(Failure::new(format!(
                    "{} recommends no kernel: its section [kernel] may have url, digest and binary (the kernel's path, where the address is an archive's)",
                    path.display()
                )));
            };
            return Ok(Source {
                place: Place::of(&url)?,
                member: binary,
                digest: Some(digest.parse().map_err(Failure::new)?),
            });
        }
        let binary = self.binary.clone().unwrap_or_default();
        let (place, member) = match &self.tar {
            Some(tar) => (tar, Some(binary)),
            None => (&binary, None),
        };
        Ok(Source {
            place: Place::of(place)?,
            member,
            digest: self.digest.clone(),
        })
    }

    async fn fetched(&self, source: &Source) -> Result<Fetched, Failure> {
        let url = match &source.place {
            Place::File(path) => return Fetched::local(path.clone(), source.digest.as_ref()),
            Place::Address(url) => url,
        };
        let Some(digest) = &source.digest else {
            return Err(Failure::new(format!(
                "what comes from {url} needs --digest sha256:…, so that nobody can put another kernel in its place"
            )));
        };
        shown(self.progress, "nothing was changed", async |progress| {
            fetch(url, digest, progress).await
        })
        .await
    }
}

impl Source {
    fn name(&self) -> Result<KernelName, Failure> {
        let path = self.member.clone().unwrap_or(self.place.to_string());
        let last = path.rsplit('/').next().unwrap_or(&path);
        let name = last.parse::<KernelName>();
        name.map_err(|error| Failure::new(format!("{error}; --name gives it another")))
    }

    fn told(&self) -> String {
        match &self.member {
            Some(member) => format!("{member} in {}", self.place),
            None => self.place.to_string(),
        }
    }
}

/// Takes one file out of an archive.
fn extract(archive: &Path, member: &str, to: &Path) -> Result<(), Failure> {
    let mut wanted = plain(Path::new(member));
    for _ in 0..MOST_LINKS {
        match find(archive, &wanted, to) {
            Ok(Found::File) => return Ok(()),
            Ok(Found::Link(target)) => wanted = target,
            Ok(Found::Nothing(near)) => {
                let near: String = near
                    .iter()
                    .map(|it| format!("\n  {}", it.display()))
                    .collect();
                return Err(Failure::new(format!(
                    "the archive {} holds no file {}{}",
                    archive.display(),
                    wanted.display(),
                    match near.is_empty() {
                        true => String::new(),
                        false => format!("; what looks like a kernel in it:{near}"),
                    }
                )));
            }
            Err(error) => {
                return Err(Failure::new(format!(
                    "reading the archive {}: {error}",
                    archive.display()
                )));
            }
        }
    }
    Err(Failure::new(format!(
        "{member} leads from link to link in the archive"
    )))
}

enum Found {
    File,
    Link(PathBuf),
    /// Not there; what is there with a kernel's name.
    Nothing(Vec<PathBuf>),
}

fn find(archive: &Path, wanted: &Path, to: &Path) -> io::Result<Found> {
    let stream = decompress(BufReader::new(File::open(archive)?))?;
    let mut near = Vec::new();
    for (number, entry) in tar::Archive::new(stream).entries()?.enumerate() {
        let mut entry = entry.map_err(|error| match number {
            0 => io::Error::other("it is no tar archive, plain or packed with gzip, xz or zstd"),
            _ => error,
        })?;
        let path = plain(&entry.path()?);
        if path != wanted {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with("vmlinu") || name.starts_with("bzImage") {
                near.push(path);
            }
            continue;
        }
        if let Some(target) = entry.link_name()? {
            let is_symbolic = entry.header().entry_type().is_symlink();
            let base = wanted
                .parent()
                .filter(|_| is_symbolic && target.is_relative());
            return Ok(Found::Link(plain(
                &base.unwrap_or(Path::new("")).join(target),
            )));
        }
        io::copy(&mut entry.by_ref().take(LARGEST), &mut File::create(to)?)?;
        return Ok(Found::File);
    }
    Ok(Found::Nothing(near))
}

/// A path without its `.` and `..`, and without a root.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => plain.push(name),
            Component::ParentDir => {
                plain.pop();
            }
            _ => {}
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_place_is_a_file_or_an_address() {
        let place = |word: &str| Place::of(word).ok();
        assert_eq!(place("file:///k%20a"), Some(Place::File("/k a".into())));
        assert_eq!(place("/k"), Some(Place::File("/k".into())));
        let url = "https://example.com/k";
        assert_eq!(place(url), Some(Place::Address(url.to_owned())));
        assert_eq!(place("ftp://example.com/k"), None);
        assert!(matches!(place("k"), Some(Place::File(path)) if path.is_absolute()));
    }

    #[test]
    fn a_kernel_is_taken_out_of_an_archive_through_its_links() {
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
            let refused =
                |member: &str| format!("{:?}", extract(&archive, member, &to).unwrap_err());
            assert!(refused("opt/none").contains("opt/vmlinux-6"));
            assert!(refused("opt/loop").contains("link to link"));
        }
        let other = directory.path().join("a.tar.bz2");
        fs::write(&other, [b"BZh91AY&SY".as_slice(), &[0x9c; 1024]].concat()).unwrap();
        let error = extract(&other, "opt/none", &directory.path().join("kernel")).unwrap_err();
        assert!(
            format!("{error:?}").contains("gzip, xz or zstd"),
            "{error:?}"
        );
    }
}
