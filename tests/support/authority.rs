//! A certificate authority.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

/// A private certificate authority, created with `openssl`.
pub struct Authority {
    directory: TempDir,
}

/// PEM files of a certificate that an authority has signed.
pub struct Certified {
    /// Path of the certificate.
    pub certificate: PathBuf,
    /// Path of the private key.
    pub key: PathBuf,
}

impl Authority {
    /// Creates an authority.
    pub fn create() -> Authority {
        let authority = Authority {
            directory: tempfile::tempdir().unwrap(),
        };
        let (certificate, key) = (authority.certificate(), authority.file("ca.key"));
        let line = [
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "9",
        ];
        let mut openssl = openssl(&line);
        openssl.args(["-subj", "/CN=authority", "-keyout"]).arg(key);
        succeed(openssl.arg("-out").arg(certificate));
        authority
    }

    /// Returns the path of the authority's certificate.
    pub fn certificate(&self) -> PathBuf {
        self.file("ca.crt")
    }

    /// Issues a certificate. `names` is its `subjectAltName`, such as `IP:127.0.0.1` or
    /// `DNS:registry.internal`.
    pub fn certify(&self, name: &str, names: &str) -> Certified {
        let certified = Certified {
            certificate: self.file(&format!("{name}.crt")),
            key: self.file(&format!("{name}.key")),
        };
        let request = self.file("request");
        let mut ask = openssl(&["req", "-newkey", "rsa:2048", "-nodes", "-subj"]);
        ask.arg(format!("/CN={name}"))
            .arg("-keyout")
            .arg(&certified.key);
        succeed(ask.arg("-out").arg(&request));
        let extensions = self.file("extensions");
        fs::write(&extensions, format!("subjectAltName={names}\n")).unwrap();
        let mut sign = openssl(&["x509", "-req", "-days", "9", "-CAcreateserial", "-in"]);
        sign.arg(request).arg("-CA").arg(self.certificate());
        sign.arg("-CAkey").arg(self.file("ca.key"));
        sign.arg("-extfile").arg(extensions);
        succeed(sign.arg("-out").arg(&certified.certificate));
        certified
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

impl Certified {
    /// Copies both files to `NAME.cert` and `NAME.key` in a directory.
    pub fn copy_to(&self, directory: &Path, name: &str) {
        fs::copy(&self.certificate, directory.join(format!("{name}.cert"))).unwrap();
        fs::copy(&self.key, directory.join(format!("{name}.key"))).unwrap();
    }
}

fn openssl(arguments: &[&str]) -> Command {
    let mut openssl = Command::new("openssl");
    openssl.args(arguments);
    openssl
}

/// Runs a command, which must succeed.
fn succeed(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}
