//! Certificates: which authorities are trusted for a registry, and the client certificate for it.
//!
//! Trusted are the host's certificate authorities, or those that `SSL_CERT_FILE` and `SSL_CERT_DIR`
//! name instead, and for one registry also:
//!
//! - the file that the configuration names;
//! - `*.crt` in the directory `HOST[:PORT]` below `~/.config/containers/certs.d`,
//!   `/etc/containers/certs.d` and `/etc/docker/certs.d`, as in docker and podman
//!   (containers-certs.d(5)).
//!
//! `NAME.cert` with `NAME.key` in such a directory is the client certificate.

use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use reqwest::{Certificate, ClientBuilder, Identity};

use super::RegistryHost;
use crate::{Access, Environment};

/// Directories for all users of the host.
const SYSTEM_DIRECTORIES: [&str; 2] = ["/etc/containers/certs.d", "/etc/docker/certs.d"];

/// Error of a certificate file.
#[derive(Debug, thiserror::Error)]
#[error("cannot read certificates from {}: {reason}", .file.display())]
pub struct CertificateFileError {
    file: PathBuf,
    reason: String,
}

/// Certificates for one server.
#[derive(Default)]
pub(super) struct Certificates {
    /// Authorities that replace the host's.
    system: Option<Vec<Certificate>>,
    /// Additional authorities.
    authorities: Vec<Certificate>,
    client: Option<Identity>,
}

impl Certificates {
    /// Reads the certificates for a registry.
    pub(super) fn read(
        host: &RegistryHost,
        access: Access<'_>,
    ) -> Result<Certificates, CertificateFileError> {
        let mut certificates = Certificates {
            system: read_system_authorities(access.environment)?,
            ..Certificates::default()
        };
        if let Some(file) = access.ca_of(host) {
            certificates.authorities = read_authorities(file)?;
        }
        for directory in directories(host, access.environment) {
            for file in list_files(&directory) {
                match file.extension().and_then(|extension| extension.to_str()) {
                    Some("crt") => certificates.authorities.extend(read_authorities(&file)?),
                    Some("cert") if certificates.client.is_none() => {
                        certificates.client = Some(read_client_certificate(&file)?);
                    }
                    _ => {}
                }
            }
        }
        Ok(certificates)
    }

    /// Adapts the registry's certificates for another server of it, such as a token service, that
    /// has the certificates `other`: authorities of both are trusted, but the registry's client
    /// certificate is not presented there.
    pub(super) fn for_other_server(mut self, other: Certificates) -> Certificates {
        self.authorities.extend(other.authorities);
        self.client = other.client;
        self
    }

    /// Configures an HTTP client to use them.
    pub(super) fn configure(self, builder: ClientBuilder) -> ClientBuilder {
        let builder = match self.system {
            Some(system) => builder.tls_certs_only(system.into_iter().chain(self.authorities)),
            None => builder.tls_certs_merge(self.authorities),
        };
        match self.client {
            Some(client) => builder.identity(client),
            None => builder,
        }
    }
}

/// Reads the authorities that the environment names instead of the host's.
fn read_system_authorities(
    environment: &Environment,
) -> Result<Option<Vec<Certificate>>, CertificateFileError> {
    let (file, directory) = (
        environment.path("SSL_CERT_FILE"),
        environment.path("SSL_CERT_DIR"),
    );
    if file.is_none() && directory.is_none() {
        return Ok(None);
    }
    let mut found = Vec::new();
    if let Some(file) = file {
        found.extend(read_authorities(file)?);
    }
    for file in directory.map(list_files).unwrap_or_default() {
        // Such directories contain other files, too.
        found.extend(read_authorities(&file).unwrap_or_default());
    }
    Ok(Some(found))
}

fn directories(host: &RegistryHost, environment: &Environment) -> Vec<PathBuf> {
    let own = environment.config_directory();
    let own = own.map(|it| it.join("containers/certs.d"));
    let all = own.into_iter().chain(SYSTEM_DIRECTORIES.map(PathBuf::from));
    all.map(|directory| directory.join(host.as_str())).collect()
}

/// Lists the files of a directory, sorted by name. A missing or unreadable directory is empty.
fn list_files(directory: &Path) -> Vec<PathBuf> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => {
            if error.kind() != ErrorKind::NotFound {
                tracing::debug!("cannot read {}: {error}", directory.display());
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

/// Reads the certificates of a PEM file, at least one.
fn read_authorities(file: &Path) -> Result<Vec<Certificate>, CertificateFileError> {
    let bytes = fs::read(file).map_err(unusable(file))?;
    match Certificate::from_pem_bundle(&bytes) {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(unusable(file)("no PEM certificate found")),
    }
}

/// Checks that a file contains PEM certificates of authorities.
///
/// # Errors
/// [`CertificateFileError`] if it cannot be read or contains none.
pub fn check_ca_file(file: &Path) -> Result<(), CertificateFileError> {
    read_authorities(file).map(drop)
}

/// Reads a client certificate `NAME.cert` and its key `NAME.key`.
fn read_client_certificate(certificate: &Path) -> Result<Identity, CertificateFileError> {
    let key = certificate.with_extension("key");
    let mut pem = fs::read(certificate).map_err(unusable(certificate))?;
    let key_unreadable = |error: io::Error| {
        unusable(certificate)(format!("cannot read its key {}: {error}", key.display()))
    };
    pem.push(b'\n');
    pem.extend(fs::read(&key).map_err(key_unreadable)?);
    Identity::from_pem(&pem)
        .map_err(|_| unusable(certificate)("invalid PEM certificate, or invalid key"))
}

fn unusable<E: ToString>(file: &Path) -> impl FnOnce(E) -> CertificateFileError {
    let file = file.to_owned();
    move |reason| CertificateFileError {
        file,
        reason: reason.to_string(),
    }
}
