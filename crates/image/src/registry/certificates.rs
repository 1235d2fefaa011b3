//! Whom to believe that a registry is the one it says, and who we are to it.
//!
//! Besides the authorities of the host (or those that `SSL_CERT_FILE` and `SSL_CERT_DIR` name in
//! their place), a registry may have some of its own: in a file that the settings name, and where
//! docker and podman look (containers-certs.d(5)): `*.crt` in `HOST[:PORT]` below
//! `~/.config/containers/certs.d`, `/etc/containers/certs.d` and `/etc/docker/certs.d`. `NAME.cert`
//! with `NAME.key` there is what we show the registry.

use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use reqwest::{Certificate, ClientBuilder, Identity};

use super::{FetchError, RegistryHost};
use crate::{Access, Environment, credentials::configuration_directory};

/// For all users of the host.
const SYSTEM: [&str; 2] = ["/etc/containers/certs.d", "/etc/docker/certs.d"];

/// What holds for one registry.
#[derive(Default)]
pub(super) struct Certificates {
    /// In place of the host's.
    system: Option<Vec<Certificate>>,
    authorities: Vec<Certificate>,
    identity: Option<Identity>,
}

impl Certificates {
    /// Reads what there is for this registry.
    pub(super) fn of(host: &RegistryHost, access: Access<'_>) -> Result<Certificates, FetchError> {
        let mut certificates = Certificates {
            system: named_by(access.environment)?,
            ..Certificates::default()
        };
        if let Some(file) = access.ca_of(host) {
            certificates.authorities = authorities(file)?;
        }
        for directory in directories(host, access.environment) {
            for file in files(&directory) {
                match file.extension().and_then(|extension| extension.to_str()) {
                    Some("crt") => certificates.authorities.extend(authorities(&file)?),
                    Some("cert") if certificates.identity.is_none() => {
                        certificates.identity = Some(identity(&file)?);
                    }
                    _ => {}
                }
            }
        }
        Ok(certificates)
    }

    /// What holds for another host that the registry sends us to: it is believed whom the registry
    /// is, and shown what is for itself.
    pub(super) fn elsewhere(mut self, other: Certificates) -> Certificates {
        self.authorities.extend(other.authorities);
        self.identity = other.identity;
        self
    }

    /// Has a client use them.
    pub(super) fn used_by(self, builder: ClientBuilder) -> ClientBuilder {
        let builder = match self.system {
            Some(system) => builder.tls_certs_only(system.into_iter().chain(self.authorities)),
            None => builder.tls_certs_merge(self.authorities),
        };
        match self.identity {
            Some(identity) => builder.identity(identity),
            None => builder,
        }
    }
}

/// The authorities that the environment names in place of the host's.
fn named_by(environment: &Environment) -> Result<Option<Vec<Certificate>>, FetchError> {
    let (file, directory) = (
        environment.path("SSL_CERT_FILE"),
        environment.path("SSL_CERT_DIR"),
    );
    if file.is_none() && directory.is_none() {
        return Ok(None);
    }
    let mut found = Vec::new();
    if let Some(file) = file {
        found.extend(authorities(file)?);
    }
    for file in directory.map(files).unwrap_or_default() {
        // Such directories hold other files, too.
        found.extend(authorities(&file).unwrap_or_default());
    }
    Ok(Some(found))
}

fn directories(host: &RegistryHost, environment: &Environment) -> Vec<PathBuf> {
    let own = configuration_directory(environment).map(|it| it.join("containers/certs.d"));
    let all = own.into_iter().chain(SYSTEM.map(PathBuf::from));
    all.map(|directory| directory.join(host.as_str())).collect()
}

/// The files in a directory, in the order of their names; none if it is not for us.
fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => {
            if error.kind() != ErrorKind::NotFound {
                tracing::debug!("{}: {error}", directory.display());
            }
            return Vec::new();
        }
    };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    files.sort();
    files
}

/// The certificates in a PEM file, at least one.
fn authorities(file: &Path) -> Result<Vec<Certificate>, FetchError> {
    let bytes = fs::read(file).map_err(unusable(file))?;
    match Certificate::from_pem_bundle(&bytes) {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(unusable(file)("it holds no PEM certificate")),
    }
}

/// Whether this file holds certificates.
///
/// # Errors
/// [`FetchError::Certificates`] if not.
pub fn check_authorities(file: &Path) -> Result<(), FetchError> {
    authorities(file).map(drop)
}

/// A certificate and its key, which lies beside it.
fn identity(certificate: &Path) -> Result<Identity, FetchError> {
    let key = certificate.with_extension("key");
    let mut pem = fs::read(certificate).map_err(unusable(certificate))?;
    let failed = |error: io::Error| {
        unusable(certificate)(format!("its key {} cannot be read: {error}", key.display()))
    };
    pem.push(b'\n');
    pem.extend(fs::read(&key).map_err(failed)?);
    Identity::from_pem(&pem)
        .map_err(|_| unusable(certificate)("it is no PEM certificate, or its key is none"))
}

fn unusable<E: ToString>(file: &Path) -> impl FnOnce(E) -> FetchError {
    let file = file.to_owned();
    move |reason| FetchError::Certificates {
        file,
        reason: reason.to_string(),
    }
}
