//! Runs a registry on loopback: Debian's `docker-registry` (CNCF distribution).

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use tempfile::NamedTempFile;

use crate::{directories::target, ports::unused_address, progress};

/// Timeout for a new registry to accept connections.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Returns the directory in which the registry stores the [test images](crate::images).
pub fn storage() -> PathBuf {
    target().join("images/registry")
}

/// Restrictions on a registry's clients. The default allows everything, without encryption.
#[derive(Debug, Default)]
pub struct AccessControl {
    /// File of user names and passwords (htpasswd(1), bcrypt), one of which clients must send.
    pub passwords: Option<PathBuf>,
    /// Token service, a token of which clients must send.
    pub tokens: Option<TokenIssuer>,
    /// Requires TLS.
    pub tls: Option<Tls>,
    /// Refuses pushes and deletions.
    pub read_only: bool,
}

/// A token service that a registry trusts.
#[derive(Debug)]
pub struct TokenIssuer {
    /// URL of the token service.
    pub realm: String,
    /// PEM file of the certificate that verifies the service's tokens.
    pub certificate: PathBuf,
}

/// TLS configuration of a registry. All files are in PEM format.
#[derive(Debug)]
pub struct Tls {
    /// Certificate of the registry.
    pub certificate: PathBuf,
    /// Private key of the registry.
    pub key: PathBuf,
    /// Authority of the client certificates. With `None` clients need no certificate.
    pub clients: Option<PathBuf>,
}

impl AccessControl {
    /// Returns the sections of the registry's configuration. `http` is the last one, so that the
    /// caller can append to it.
    fn sections(&self) -> String {
        let mut text = String::new();
        if self.read_only {
            text += "  maintenance:\n    readonly:\n      enabled: true\n";
        }
        if let Some(file) = &self.passwords {
            let path = file.display();
            text += &format!("auth:\n  htpasswd:\n    realm: test\n    path: {path}\n");
        }
        if let Some(TokenIssuer { realm, certificate }) = &self.tokens {
            let bundle = certificate.display();
            text += &format!(
                "auth:\n  token:\n    realm: {realm}\n    service: registry\n    issuer: issuer\n    rootcertbundle: {bundle}\n"
            );
        }
        text += "http:\n";
        if let Some(tls) = &self.tls {
            let (certificate, key) = (tls.certificate.display(), tls.key.display());
            text += &format!("  tls:\n    certificate: {certificate}\n    key: {key}\n");
            if let Some(clients) = &tls.clients {
                text += &format!("    clientcas: [{}]\n", clients.display());
            }
        }
        text
    }
}

/// A running registry. Dropping it ends the process.
#[derive(Debug)]
pub struct Registry {
    address: SocketAddr,
    process: Child,
    _configuration: NamedTempFile,
}

impl Registry {
    /// Starts a registry without restrictions on a free port, with the images in `storage`.
    pub fn start(storage: &Path) -> Result<Registry> {
        Self::start_restricted(storage, &AccessControl::default())
    }

    /// Starts a registry with restrictions on a free port.
    pub fn start_restricted(storage: &Path, access: &AccessControl) -> Result<Registry> {
        Self::start_on(unused_address()?, storage, access)
    }

    /// Starts a registry with restrictions on a fixed address.
    pub fn start_on(
        address: SocketAddr,
        storage: &Path,
        access: &AccessControl,
    ) -> Result<Registry> {
        let configuration = NamedTempFile::new()?;
        fs::write(
            &configuration,
            format!(
                "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\n\
                 storage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\n\
                 {}  addr: {address}\n",
                storage.display(),
                access.sections()
            ),
        )?;
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(configuration.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Keeps a terminal's Ctrl-C from ending the registry before the tests that use it.
            .process_group(0)
            .spawn()
            .context("cannot start docker-registry (install it with: make packages)")?;
        let mut registry = Registry {
            address,
            process,
            _configuration: configuration,
        };
        registry.wait_until_ready()?;
        Ok(registry)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        while TcpStream::connect(self.address).is_err() {
            if let Some(status) = self.process.try_wait()? {
                bail!(
                    "the registry exited ({status}); is port {} in use?",
                    self.address.port()
                );
            }
            if Instant::now() > deadline {
                bail!("timed out waiting for the registry on {}", self.address);
            }
            sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Returns the registry's address, the first part of its images' references.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // Fails only if the process has ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Serves the test images on a port of 127.0.0.1 until this process ends.
pub fn serve(port: &str) -> Result<()> {
    let port: u16 = port
        .parse()
        .with_context(|| format!("invalid port {port:?}"))?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut registry = Registry::start_on(address, &storage(), &AccessControl::default())?;
    progress::print(&format!("Serving the test images on {address}"));
    registry.process.wait()?;
    bail!("the registry exited")
}
