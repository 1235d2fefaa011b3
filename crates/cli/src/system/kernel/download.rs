//! What comes from another computer: whole and as expected, or not at all.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use container_api::{Progress, Step};
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

use crate::failure::Failure;

/// How long a server may be silent.
const PATIENCE: Duration = Duration::from_secs(60);

/// A SHA-256 digest, in OCI's notation or as `sha256sum` prints it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digest(String);

impl FromStr for Digest {
    type Err = String;

    fn from_str(word: &str) -> Result<Digest, String> {
        let hex = word.strip_prefix("sha256:").unwrap_or(word);
        match hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            true => Ok(Digest(hex.to_ascii_lowercase())),
            false => Err(format!(
                "{word:?} is no digest: those are `sha256:` and 64 hexadecimal digits"
            )),
        }
    }
}

impl Digest {
    fn check(&self, place: &str, hash: Sha256) -> Result<(), Failure> {
        let found = format!("{:x}", hash.finalize());
        match found == self.0 {
            true => Ok(()),
            false => Err(Failure::new(format!(
                "what is at {place} has the digest sha256:{found}, and not sha256:{}: nothing was changed",
                self.0
            ))),
        }
    }
}

/// A file that is there: this computer's own, or fetched and gone when this is dropped.
pub enum Fetched {
    Local(PathBuf),
    Temporary(NamedTempFile),
}

impl Fetched {
    /// A file of this computer's, which must have this digest if one is given.
    pub fn local(path: PathBuf, digest: Option<&Digest>) -> Result<Fetched, Failure> {
        if let Some(digest) = digest {
            let place = path.display().to_string();
            let failed = |error: io::Error| Failure::new(format!("reading {place}: {error}"));
            let mut file = File::open(&path).map_err(failed)?;
            let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
            loop {
                match file.read(&mut buffer).map_err(failed)? {
                    0 => break,
                    length => hash.update(&buffer[..length]),
                }
            }
            digest.check(&place, hash)?;
        }
        Ok(Fetched::Local(path))
    }

    pub fn path(&self) -> &Path {
        match self {
            Fetched::Local(path) => path,
            Fetched::Temporary(file) => file.path(),
        }
    }
}

/// The words of the lowest cause, which say the most.
fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(lower) = cause.source() {
        cause = lower;
    }
    cause.to_string()
}

/// Fetches what is at an address.
pub async fn fetch(
    url: &str,
    digest: &Digest,
    progress: &mut dyn FnMut(Progress),
) -> Result<Fetched, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::new(format!("fetching {url}: {error}"));
    // One may be there already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder()
        .user_agent(concat!("container/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(Duration::from_secs(10))
        .read_timeout(PATIENCE)
        .build()
        .map_err(|error| failed(&error))?;
    let answer = client
        .get(url)
        .send()
        .await
        .map_err(|error| failed(&innermost(&error)))?;
    let mut answer = answer
        .error_for_status()
        .map_err(|error| failed(&error.without_url()))?;
    let total = answer.content_length();
    let mut file = NamedTempFile::new()?;
    let (mut hash, mut done) = (Sha256::new(), 0);
    while let Some(bytes) = answer
        .chunk()
        .await
        .map_err(|error| failed(&innermost(&error)))?
    {
        hash.update(&bytes);
        file.write_all(&bytes)?;
        done += bytes.len() as u64;
        progress(Progress::Step(Step {
            name: "fetching kernel".to_owned(),
            layers: None,
            done: Some(done),
            total,
        }));
    }
    if total.is_some_and(|total| total != done) {
        return Err(failed(&"it ended early"));
    }
    digest.check(url, hash)?;
    Ok(Fetched::Temporary(file))
}

#[cfg(test)]
mod tests {
    use super::Digest;

    #[test]
    fn a_digest_is_as_sha256sum_prints_it_too() {
        let hex = "0123456789abcdef".repeat(4);
        let digest: Digest = format!("sha256:{hex}").parse().unwrap();
        assert_eq!(hex.parse(), Ok(digest));
        for wrong in ["", "sha256:", &hex[1..], &format!("sha512:{hex}")] {
            assert!(wrong.parse::<Digest>().is_err(), "{wrong}");
        }
    }
}
