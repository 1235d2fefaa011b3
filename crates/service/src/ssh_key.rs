//! Keys for SSH: Ed25519 (RFC 8709), in OpenSSH's formats.

use ring::{
    rand::{SecureRandom, SystemRandom},
    signature::{Ed25519KeyPair, KeyPair},
};
use ssh_key::{
    LineEnding, PrivateKey,
    private::{Ed25519Keypair, Ed25519PrivateKey},
    public::Ed25519PublicKey,
};

/// A key cannot be generated or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SshKeyError {
    #[error("the system has no random numbers")]
    Random,
    #[error("{0}")]
    Key(ring::error::KeyRejected),
    #[error("{0}")]
    Format(ssh_key::Error),
}

// Without the feature `std`, which has dozens of dependencies, it is no `Error`.
impl From<ssh_key::Error> for SshKeyError {
    fn from(error: ssh_key::Error) -> SshKeyError {
        SshKeyError::Format(error)
    }
}

/// Returns a new private key.
pub(crate) fn generate() -> Result<String, SshKeyError> {
    let mut seed = [0; Ed25519PrivateKey::BYTE_SIZE];
    let filled = SystemRandom::new().fill(&mut seed);
    filled.map_err(|_| SshKeyError::Random)?;
    let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(SshKeyError::Key)?;
    let pair = Ed25519Keypair {
        public: Ed25519PublicKey::try_from(pair.public_key().as_ref())?,
        private: Ed25519PrivateKey::from_bytes(&seed),
    };
    let private = PrivateKey::from(pair).to_openssh(LineEnding::LF)?;
    Ok(private.to_string())
}

/// Returns the public key of a private one, as in `authorized_keys` and `known_hosts` (sshd(8)).
pub(crate) fn public(private: &str) -> Result<String, SshKeyError> {
    Ok(PrivateKey::from_openssh(private)?
        .public_key()
        .to_openssh()?)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt, process::Command};

    use super::*;

    #[test]
    fn openssh_reads_a_generated_key() {
        let private = generate().unwrap();
        assert_ne!(private, generate().unwrap());
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, &private).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let mut command = Command::new("ssh-keygen");
        let output = command.arg("-y").arg("-f").arg(file.path()).output();
        let expected = String::from_utf8(output.unwrap().stdout).unwrap();
        assert_eq!(public(&private).unwrap(), expected.trim_end());
        assert!(public("no key").is_err());
    }
}
