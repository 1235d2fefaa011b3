//! A world of its own, with the program in it.

use std::{
    fs,
    io::{Read, Write},
    num::NonZeroU32,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use container_machine::{
    BootConfiguration, Bundle, Bundles, Descriptor, DiskCapacity, HomeMount, ImageDescription,
    MachineConfiguration, Memory, Platform, UserSetup,
};
use tempfile::TempDir;

/// Gone, with its service, when it is dropped.
pub struct World {
    root: TempDir,
}

/// What a command came to.
#[derive(Debug)]
pub struct Outcome {
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
    pub fn new() -> World {
        let root = tempfile::tempdir().unwrap();
        for directory in ["data", "config/container", "runtime", "home"] {
            fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        World { root }
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.root.path().join(below)
    }

    /// `container machine` with these arguments, run by this program.
    pub fn command_of(&self, program: &Path, arguments: &[&str]) -> Command {
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

    pub fn command(&self, arguments: &[&str]) -> Command {
        self.command_of(Path::new(env!("CARGO_BIN_EXE_container")), arguments)
    }

    pub fn run(&self, arguments: &[&str]) -> Outcome {
        self.command(arguments).output().unwrap().into()
    }

    /// Standard output of a command that succeeds.
    pub fn stdout(&self, arguments: &[&str]) -> String {
        let outcome = self.run(arguments);
        assert_eq!(outcome.code, Some(0), "{arguments:?}: {outcome:?}");
        outcome.stdout
    }

    /// The one line of standard error of a command that fails.
    pub fn error(&self, arguments: &[&str]) -> String {
        let outcome = self.run(arguments);
        assert_eq!(outcome.code, Some(1), "{arguments:?}: {outcome:?}");
        assert_eq!(outcome.stdout, "");
        let errors = outcome.stderr.lines().filter(|line| !line.starts_with('['));
        let errors: Vec<&str> = errors.collect();
        assert_eq!(errors.len(), 1, "{errors:?}");
        errors[0].strip_prefix("Error: ").unwrap().to_owned()
    }

    /// The service's process, if one was ever there.
    pub fn service(&self) -> Option<i32> {
        let word = fs::read_to_string(self.path("runtime/container/service.lock")).ok()?;
        word.trim().parse().ok()
    }

    /// What the service answers to a request as it stands on the wire.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> Option<String> {
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

    /// A machine that was made and never booted.
    pub fn put_machine(&self, id: &str) -> Bundle {
        let bundles = Bundles::open(&self.path("data/container")).unwrap();
        let configuration = MachineConfiguration {
            created_date: jiff::Timestamp::from_second(1_700_000_000).unwrap(),
            home: self.path("home"),
            id: id.parse().unwrap(),
            image: ImageDescription {
                descriptor: Descriptor {
                    digest: format!("sha256:{}", "0".repeat(64)),
                    media_type: "application/vnd.oci.image.manifest.v1+json".into(),
                    size: 503,
                },
                reference: "registry.example/debian:12".into(),
            },
            init_environment: vec![],
            platform: Platform {
                architecture: "amd64".into(),
                os: "linux".into(),
                variant: None,
            },
            shell: None,
            stop_signal: None,
            user_setup: UserSetup {
                username: "ann".into(),
                uid: 1000,
                gid: 1000,
            },
        };
        let boot = BootConfiguration {
            kernel_args: Default::default(),
            cpus: NonZeroU32::new(2).unwrap(),
            disk_capacity: DiskCapacity::default(),
            home_mount: HomeMount::Rw,
            kernel: None,
            memory: Memory::try_from(2 << 30).unwrap(),
            publish: Vec::new(),
            virtualization: false,
        };
        let new = bundles.begin(&configuration.id).unwrap();
        fs::write(new.disk(), "disk").unwrap();
        new.finish(&configuration, &boot).unwrap()
    }

    /// What is in the machines' directory, finished or not.
    pub fn entries(&self) -> Vec<String> {
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
