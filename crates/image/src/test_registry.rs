//! A real registry for tests: Debian's `docker-registry` on loopback.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::NamedTempFile;

/// Timeout for the registry's start.
const START: Duration = Duration::from_secs(30);

/// A running registry, stopped on drop.
pub(crate) struct Registry {
    address: SocketAddr,
    process: Child,
    _configuration: NamedTempFile,
}

impl Registry {
    /// Starts a registry over this storage directory on an unused port.
    pub(crate) fn start(storage: &Path) -> Registry {
        let unused = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = unused.local_addr().unwrap();
        drop(unused);
        let configuration = NamedTempFile::new().unwrap();
        let text = format!(
            "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\n\
             storage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\n\
             http:\n  addr: {address}\n",
            storage.display()
        );
        fs::write(&configuration, text).unwrap();
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(configuration.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("cannot start docker-registry (install it with: make packages)");
        let mut registry = Registry {
            address,
            process,
            _configuration: configuration,
        };
        registry.wait_until_ready();
        registry
    }

    fn wait_until_ready(&mut self) {
        let deadline = Instant::now() + START;
        while TcpStream::connect(self.address).is_err() {
            let status = self.process.try_wait().unwrap();
            assert!(status.is_none(), "docker-registry exited: {status:?}");
            assert!(
                Instant::now() < deadline,
                "timed out after {START:?} waiting for docker-registry on {}",
                self.address
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // Fails if it has exited already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
