//! Directories, service and program of one test.

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use container_machine::{BootConfiguration, Bundle, Bundles, DiskFile, MachineConfiguration};
use serde_json::{from_value, json};
use tempfile::TempDir;

/// Data, config, runtime and home directory of one test. Dropping it ends the service and removes
/// them.
pub(crate) struct World {
    root: TempDir,
}

/// Exit code and output of a command.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Self {
        Outcome {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl World {
    pub(crate) fn new() -> World {
        let root = tempfile::tempdir().unwrap();
        for directory in ["data", "config/container", "runtime", "home"] {
            fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        World { root }
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.root.path().join(below)
    }

    /// Returns `container machine` with these arguments, as a command of this program.
    pub(crate) fn command_of(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .arg("machine")
            .args(arguments)
            .env("XDG_DATA_HOME", self.path("data"))
            .env("XDG_CONFIG_HOME", self.path("config"))
            .env("XDG_RUNTIME_DIR", self.path("runtime"))
            .env("HOME", self.path("home"))
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        self.command_of(Path::new(env!("CARGO_BIN_EXE_container")), arguments)
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Outcome {
        self.command(arguments).output().unwrap().into()
    }

    /// Runs a command, which must succeed, and returns its standard output.
    pub(crate) fn stdout(&self, arguments: &[&str]) -> String {
        let outcome = self.run(arguments);
        assert_eq!(outcome.code, Some(0), "{arguments:?}: {outcome:?}");
        outcome.stdout
    }

    /// Runs a command, which must fail with one error line, and returns that line without its
    /// prefix.
    pub(crate) fn error(&self, arguments: &[&str]) -> String {
        let outcome = self.run(arguments);
        let code = if arguments[0] == "run" { 125 } else { 1 };
        assert_eq!(outcome.code, Some(code), "{arguments:?}: {outcome:?}");
        assert_eq!(outcome.stdout, "");
        let errors = outcome.stderr.lines().filter(|line| !line.starts_with('['));
        let errors: Vec<&str> = errors.collect();
        assert_eq!(errors.len(), 1, "{errors:?}");
        errors[0].strip_prefix("Error: ").unwrap().to_owned()
    }

    /// Returns the process id of the newest service, if one was ever started.
    pub(crate) fn service(&self) -> Option<i32> {
        let word = fs::read_to_string(self.path("runtime/container/service.lock")).ok()?;
        word.trim().parse().ok()
    }

    /// Sends a request to the service, and returns the reply with its headers.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &str) -> Option<String> {
        let socket = self.path("runtime/container/service.sock");
        let mut stream = UnixStream::connect(socket).ok()?;
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
             content-length: {length}\r\n\r\n{body}"
        )
        .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    /// Creates a machine that was never booted.
    pub(crate) fn put_machine(&self, id: &str) -> Bundle {
        let bundles = Bundles::open(&self.path("data/container")).unwrap();
        // In the form of the files, which must stay readable.
        let configuration: MachineConfiguration = from_value(json!({
            "createdDate": "2023-11-14T22:13:20Z",
            "home": self.path("home"),
            "id": id,
            "image": {
                "descriptor": {
                    "digest": format!("sha256:{}", "0".repeat(64)),
                    "mediaType": "application/vnd.oci.image.manifest.v1+json",
                    "size": 503,
                },
                "reference": "registry.example/debian:12",
            },
            "initEnvironment": [],
            "platform": { "architecture": "amd64", "os": "linux" },
            "userSetup": { "username": "ann", "uid": 1000, "gid": 1000 },
        }))
        .unwrap();
        let boot: BootConfiguration = from_value(json!({
            "cpus": 2,
            "homeMount": "rw",
            "memory": 2_u64 << 30,
            "virtualization": false,
        }))
        .unwrap();
        let new = bundles.begin(&configuration.id).unwrap();
        let disk = DiskFile::random();
        fs::write(new.disk_file(&disk), "disk").unwrap();
        new.use_disk_file(&disk).unwrap();
        new.finish(&configuration, &boot).unwrap()
    }

    /// Returns the entries of the machine directory, including unfinished ones.
    pub(crate) fn entries(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("data/container/machines")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.ask("POST", "/v1/retire", "");
    }
}
