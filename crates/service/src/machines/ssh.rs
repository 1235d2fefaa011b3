//! Keys of SSH connections: each machine has a host key, and the user one key for all machines.

use std::path::PathBuf;

use container_api::{FailureKind, SshClientFiles};
use container_machine::{Bundle, BundleError, MachineId, SshFiles};
use container_protocol::SshServer;

use crate::{
    failure::RequestError,
    service::Service,
    ssh_key::{self, SshKeyError},
};

/// The keys of a connection cannot be created or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SshError {
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error("cannot generate a key for SSH: {0}")]
    Generate(SshKeyError),
    #[error("the SSH host key of machine {id:?} is invalid: {cause}")]
    HostKey { id: MachineId, cause: SshKeyError },
    #[error("the SSH key {path} is invalid: {cause} (remove it to get a new one)")]
    Identity { path: PathBuf, cause: SshKeyError },
}

impl RequestError for SshError {
    fn kind(&self) -> FailureKind {
        match self {
            SshError::Bundle(error) => error.kind(),
            SshError::Generate(_) | SshError::HostKey { .. } | SshError::Identity { .. } => {
                FailureKind::Failed
            }
        }
    }
}

impl Service {
    /// Returns the SSH server for one connection to a machine. The client then finds the machine's
    /// host key in `known_hosts`.
    pub(crate) fn ssh_server(&self, id: &MachineId) -> Result<SshServer, SshError> {
        let bundle = self.bundles.get(id)?;
        let host_key = match bundle.ssh_host_key()? {
            Some(key) => key,
            None => {
                let key = ssh_key::generate().map_err(SshError::Generate)?;
                bundle.create_ssh_host_key(&key)?
            }
        };
        let files = SshFiles::open(&self.directories)?;
        let identity = identity(&files)?;
        let public = ssh_key::public(&identity).map_err(|cause| SshError::Identity {
            path: files.identity(),
            cause,
        })?;
        host_key_line(id, &host_key)?;
        self.write_known_hosts(&files)?;
        Ok(SshServer {
            host_key,
            authorized_keys: format!("{public}\n"),
            is_isolated: bundle.boot_configuration()?.isolated,
        })
    }

    /// Returns the files for `ssh`.
    pub(crate) fn ssh_client_files(&self) -> Result<SshClientFiles, SshError> {
        let files = SshFiles::open(&self.directories)?;
        identity(&files)?;
        Ok(SshClientFiles {
            identity: files.identity(),
            known_hosts: files.known_hosts(),
        })
    }

    fn write_known_hosts(&self, files: &SshFiles) -> Result<(), SshError> {
        // So that no request writes an older list over a newer one.
        let _lock = self.locks.lock_known_hosts();
        let mut lines = String::new();
        for id in self.bundles.ids()? {
            let key = self
                .bundles
                .get(&id)
                .and_then(|it| Bundle::ssh_host_key(&it));
            // A machine that cannot be read must not keep others from being reached.
            let line = key.ok().flatten().map(|key| host_key_line(&id, &key));
            if let Some(Ok(line)) = line {
                lines += &line;
            }
        }
        Ok(files.set_known_hosts(&lines)?)
    }
}

/// Returns the user's private key, which is generated if it is missing.
fn identity(files: &SshFiles) -> Result<String, SshError> {
    match files.read_identity()? {
        Some(key) => Ok(key),
        None => {
            let key = ssh_key::generate().map_err(SshError::Generate)?;
            Ok(files.create_identity(&key)?)
        }
    }
}

/// Returns a machine's line in `known_hosts` (sshd(8)).
fn host_key_line(id: &MachineId, private: &str) -> Result<String, SshError> {
    let public = ssh_key::public(private).map_err(|cause| SshError::HostKey {
        id: id.clone(),
        cause,
    })?;
    Ok(format!("{id}.machine {public}\n"))
}
