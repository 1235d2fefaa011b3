//! Archives of a tree, written by the tar programs in common use.

use std::{
    io::Read,
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
};

use super::listing::Scope;

/// A tar program and its format.
#[derive(Debug, Clone, Copy)]
pub(crate) enum TarWriter {
    /// GNU tar's GNU format.
    Gnu,
    /// GNU tar's PAX format, with this version of the sparse format.
    GnuPax(&'static str),
    /// libarchive's PAX format.
    Bsd,
    /// Python's `tarfile`, with its constant for the format.
    Python(&'static str),
}

impl TarWriter {
    pub(crate) const ALL: [TarWriter; 7] = [
        TarWriter::Gnu,
        TarWriter::GnuPax("0.0"),
        TarWriter::GnuPax("0.1"),
        TarWriter::GnuPax("1.0"),
        TarWriter::Bsd,
        TarWriter::Python("GNU_FORMAT"),
        TarWriter::Python("PAX_FORMAT"),
    ];

    /// What the format can store of a file.
    pub(crate) fn scope(self) -> Scope {
        let is_gnu_pax = matches!(self, TarWriter::GnuPax(_));
        Scope {
            nanoseconds: is_gnu_pax || matches!(self, TarWriter::Bsd),
            // libarchive percent-encodes the names of attributes, which no image layer does.
            xattrs: is_gnu_pax,
        }
    }

    fn command(self, tree: &Path) -> Command {
        let mut command = match self {
            TarWriter::Gnu => tar(&["--format=gnu"]),
            TarWriter::GnuPax(sparse) => tar(&[
                "--format=posix",
                "--pax-option=delete=atime,delete=ctime",
                "--xattrs",
                "--xattrs-include=*",
                &format!("--sparse-version={sparse}"),
            ]),
            TarWriter::Bsd => {
                let mut command = Command::new("bsdtar");
                command.args(["--format=pax", "--xattrs", "--no-acls", "-cf", "-"]);
                command
            }
            TarWriter::Python(format) => {
                let mut command = Command::new("python3");
                let script = "import sys, tarfile\n\
                    format = getattr(tarfile, sys.argv[1])\n\
                    archive = tarfile.open(fileobj=sys.stdout.buffer, mode='w|', format=format)\n\
                    archive.add('.')\n\
                    archive.close()\n";
                command.args(["-c", script, format]);
                command
            }
        };
        if !matches!(self, TarWriter::Python(_)) {
            command.arg(".");
        }
        command.current_dir(tree);
        command
    }

    /// Starts to write the archive of a tree. Its bytes are read while they are written.
    pub(crate) fn archive(self, tree: &Path) -> ArchiveStream {
        let mut process = self
            .command(tree)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("cannot run the program for {self:?}, which this test needs: {error}")
            });
        let bytes = process.stdout.take().unwrap();
        ArchiveStream { process, bytes }
    }
}

fn tar(options: &[&str]) -> Command {
    let mut command = Command::new("tar");
    command
        .args(["--create", "--sparse", "--numeric-owner", "--sort=name"])
        .args(options);
    command
}

/// Output of a running tar program.
pub(crate) struct ArchiveStream {
    process: Child,
    bytes: ChildStdout,
}

impl ArchiveStream {
    pub(crate) fn into_bytes(mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.bytes.read_to_end(&mut bytes).unwrap();
        bytes
    }
}

impl Read for ArchiveStream {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.bytes.read(buffer)
    }
}

impl Drop for ArchiveStream {
    fn drop(&mut self) {
        let _ = self.process.wait();
    }
}
