//! Archives made by the programs that people make them with.

use std::{
    io::Read,
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
};

use crate::listing::Scope;

/// A program and its format.
#[derive(Debug, Clone, Copy)]
pub enum Form {
    /// GNU tar's own.
    Gnu,
    /// GNU tar's PAX, holes in the format of that number.
    GnuPax(&'static str),
    /// libarchive's PAX.
    Bsd,
    /// Python's, with its module's name for the format.
    Python(&'static str),
}

impl Form {
    /// All of them.
    pub const ALL: [Form; 7] = [
        Form::Gnu,
        Form::GnuPax("0.0"),
        Form::GnuPax("0.1"),
        Form::GnuPax("1.0"),
        Form::Bsd,
        Form::Python("GNU_FORMAT"),
        Form::Python("PAX_FORMAT"),
    ];

    /// What it can say of a file.
    pub fn scope(self) -> Scope {
        let is_gnu_pax = matches!(self, Form::GnuPax(_));
        Scope {
            nanoseconds: is_gnu_pax || matches!(self, Form::Bsd),
            // libarchive encodes attributes' names as in a URL, which no image's layers do.
            xattrs: is_gnu_pax,
        }
    }

    fn command(self, tree: &Path) -> Command {
        let mut command = match self {
            Form::Gnu => tar(&["--format=gnu"]),
            Form::GnuPax(sparse) => tar(&[
                "--format=posix",
                "--pax-option=delete=atime,delete=ctime",
                "--xattrs",
                "--xattrs-include=*",
                &format!("--sparse-version={sparse}"),
            ]),
            Form::Bsd => {
                let mut command = Command::new("bsdtar");
                command.args(["--format=pax", "--xattrs", "--no-acls", "-cf", "-"]);
                command
            }
            Form::Python(format) => {
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
        if !matches!(self, Form::Python(_)) {
            command.arg(".");
        }
        command.current_dir(tree);
        command
    }

    /// The archive of a tree, as it is made.
    pub fn archive(self, tree: &Path) -> Made {
        let mut maker = self
            .command(tree)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{self:?} is needed: {error}"));
        let bytes = maker.stdout.take().unwrap();
        Made { maker, bytes }
    }
}

fn tar(options: &[&str]) -> Command {
    let mut command = Command::new("tar");
    command
        .args(["--create", "--sparse", "--numeric-owner", "--sort=name"])
        .args(options);
    command
}

/// An archive that is being made.
pub struct Made {
    maker: Child,
    bytes: ChildStdout,
}

impl Made {
    /// All of it.
    pub fn whole(mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.bytes.read_to_end(&mut bytes).unwrap();
        bytes
    }
}

impl Read for Made {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.bytes.read(buffer)
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        let _ = self.maker.wait();
    }
}
