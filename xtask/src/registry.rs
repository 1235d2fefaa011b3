//! A real registry on loopback: Debian's `docker-registry`.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use tempfile::NamedTempFile;

use crate::{say, target};

/// How long it may take to answer.
const START: Duration = Duration::from_secs(30);

/// Where the registry keeps the [test images](crate::images).
pub fn storage() -> PathBuf {
    target().join("images/registry")
}

/// What a registry asks of those who come.
#[derive(Debug, Default)]
pub struct Guard {
    /// A name and password that stand in this file (htpasswd(1), bcrypt).
    pub passwords: Option<PathBuf>,
    /// A token.
    pub tokens: Option<Tokens>,
    /// Encryption.
    pub tls: Option<Tls>,
    /// To write nothing.
    pub read_only: bool,
}

/// Who gives tokens for a registry.
#[derive(Debug)]
pub struct Tokens {
    /// The token service's address.
    pub realm: String,
    /// Its certificate, which its tokens are signed with.
    pub certificate: PathBuf,
}

/// What a registry needs to speak TLS: PEM files.
#[derive(Debug)]
pub struct Tls {
    /// The registry's certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authority of those certificates that clients must show, if they must.
    pub clients: Option<PathBuf>,
}

impl Guard {
    /// The sections of the configuration, those below `http` last.
    fn sections(&self) -> String {
        let mut text = String::new();
        if self.read_only {
            text += "  maintenance:\n    readonly:\n      enabled: true\n";
        }
        if let Some(file) = &self.passwords {
            let path = file.display();
            text += &format!("auth:\n  htpasswd:\n    realm: test\n    path: {path}\n");
        }
        if let Some(Tokens { realm, certificate }) = &self.tokens {
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

/// A running registry, which ends when this is dropped.
#[derive(Debug)]
pub struct Registry {
    address: SocketAddr,
    process: Child,
    _configuration: NamedTempFile,
}

impl Registry {
    /// Starts a registry over `storage` on a port that is free.
    pub fn start(storage: &Path) -> Result<Registry> {
        Self::start_guarded(storage, &Guard::default())
    }

    /// Starts one that is not for everyone.
    pub fn start_guarded(storage: &Path, guard: &Guard) -> Result<Registry> {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        Self::start_on(free, storage, guard)
    }

    /// Starts one there.
    pub fn start_on(address: SocketAddr, storage: &Path, guard: &Guard) -> Result<Registry> {
        let configuration = NamedTempFile::new()?;
        fs::write(
            &configuration,
            format!(
                "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\n\
                 storage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\n\
                 {}  addr: {address}\n",
                storage.display(),
                guard.sections()
            ),
        )?;
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(configuration.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A terminal's Ctrl-C is for us, who ends it in order.
            .process_group(0)
            .spawn()
            .context("starting docker-registry (`make packages` installs it)")?;
        let mut registry = Registry {
            address,
            process,
            _configuration: configuration,
        };
        registry.wait_until_it_answers()?;
        Ok(registry)
    }

    fn wait_until_it_answers(&mut self) -> Result<()> {
        let deadline = Instant::now() + START;
        while TcpStream::connect(self.address).is_err() {
            if let Some(status) = self.process.try_wait()? {
                bail!(
                    "the registry ended ({status}): is {} free?",
                    self.address.port()
                );
            }
            if Instant::now() > deadline {
                bail!("the registry does not answer on {}", self.address);
            }
            sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Where it listens: the first part of its images' references.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Serves the test images on this port of 127.0.0.1 for as long as this process lives.
pub fn serve(port: &str) -> Result<()> {
    let port: u16 = port
        .parse()
        .with_context(|| format!("{port:?} is no port"))?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut registry = Registry::start_on(address, &storage(), &Guard::default())?;
    say(&format!("Serving the test images on {address}"));
    registry.process.wait()?;
    bail!("the registry ended")
}
