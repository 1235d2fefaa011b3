use std::{
    fs,
    io::Write,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{Outcome, Process, User};

/// A world of its own, with an installed program in it. Dropping it removes its machines.
pub struct World {
    root: TempDir,
    user: Option<User>,
    open_files: Option<u64>,
}

impl World {
    /// Root's own.
    pub fn of_root() -> World {
        World::of(None)
    }

    /// An ordinary user's, who is made for it.
    pub fn of_user() -> World {
        World::of(Some(User::make()))
    }

    fn of(user: Option<User>) -> World {
        let root = tempfile::Builder::new()
            .prefix("world-")
            .tempdir_in("/var/tmp")
            .unwrap();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        xtask::installation::install(&root.path().join("usr")).unwrap();
        let world = World {
            root,
            user,
            open_files: None,
        };
        for directory in ["data", "config", "config/container", "runtime", "home"] {
            let directory = world.path(directory);
            fs::create_dir(&directory).unwrap();
            if let Some(user) = &world.user {
                chown(&directory, Some(user.uid), Some(user.gid)).unwrap();
            }
        }
        world
    }

    /// The same world, in which no process may have more files open than this.
    pub fn with_open_files(mut self, limit: u64) -> World {
        self.open_files = Some(limit);
        self
    }

    /// A path of this world's directory.
    pub fn path(&self, below: &str) -> PathBuf {
        self.root.path().join(below)
    }

    /// The program.
    pub fn program(&self) -> PathBuf {
        self.path("usr/bin/container")
    }

    /// The user whose world it is, unless it is root's.
    pub fn user(&self) -> Option<&User> {
        self.user.as_ref()
    }

    /// The home directory that its machines share.
    pub fn home(&self) -> PathBuf {
        match &self.user {
            Some(user) => user.home(),
            None => self.path("home"),
        }
    }

    /// Any program, run by this world's user at home.
    pub fn command_of(&self, program: &Path) -> Command {
        let mut line: Vec<String> = Vec::new();
        if let Some(limit) = self.open_files {
            line.extend(["prlimit".to_owned(), format!("--nofile={limit}:{limit}")]);
        }
        if let Some(user) = &self.user {
            line.extend(["setpriv", "--clear-groups", "--inh-caps=-all"].map(str::to_owned));
            line.push(format!("--reuid={}", user.uid));
            line.push(format!("--regid={}", user.gid));
        }
        line.push(program.display().to_string());
        let mut command = Command::new(&line[0]);
        command.args(&line[1..]);
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", self.home())
            .env("XDG_DATA_HOME", self.path("data"))
            .env("XDG_CONFIG_HOME", self.path("config"))
            .env("XDG_RUNTIME_DIR", self.path("runtime"))
            .current_dir(self.home())
            .stdin(Stdio::null());
        for (name, value) in std::env::vars() {
            if name.to_ascii_lowercase().ends_with("_proxy") {
                command.env(name, value);
            }
        }
        command
    }

    /// `container` with these arguments.
    pub fn container(&self, arguments: &[&str]) -> Command {
        let mut command = self.command_of(&self.program());
        command.args(arguments);
        command
    }

    /// `container machine` with these arguments.
    pub fn machine(&self, arguments: &[&str]) -> Command {
        self.container(&[&["machine"], arguments].concat())
    }

    /// What `container machine` with these arguments comes to.
    pub fn run(&self, arguments: &[&str]) -> Outcome {
        self.machine(arguments).output().unwrap().into()
    }

    /// Standard output of a command that succeeds.
    pub fn stdout(&self, arguments: &[&str]) -> String {
        let outcome = self.run(arguments);
        assert_eq!(outcome.code, Some(0), "{arguments:?}: {outcome:?}");
        outcome.stdout
    }

    /// The error of a command that fails.
    pub fn error(&self, arguments: &[&str]) -> String {
        self.run(arguments).error().to_owned()
    }

    /// Standard output of a shell line that succeeds in a machine.
    pub fn inside(&self, machine: &str, line: &str) -> String {
        self.stdout(&["run", "-n", machine, line])
    }

    /// Makes a machine that is small enough for several at once.
    pub fn create(&self, image: &str, machine: &str, more: &[&str]) {
        let arguments = [
            &["create", image, "--name", machine][..],
            &["--cpus", "2", "--memory", "1G"],
            more,
        ];
        assert_eq!(self.stdout(&arguments.concat()), format!("{machine}\n"));
    }

    /// What `inspect` tells of a machine.
    pub fn inspect(&self, machine: &str) -> Value {
        let mut printed: Value = serde_json::from_str(&self.stdout(&["inspect", machine])).unwrap();
        printed[0].take()
    }

    /// Whether a machine is reported as stopped.
    pub fn is_stopped(&self, machine: &str) -> bool {
        self.inspect(machine)["status"] == "stopped"
    }

    /// A file of a machine's bundle.
    pub fn bundle(&self, machine: &str, file: &str) -> PathBuf {
        self.path("data/container/machines")
            .join(machine)
            .join(file)
    }

    /// What is there of machines, finished or not.
    pub fn bundles(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("data/container/machines")).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// The processes of this world in a role: `service`, `runtime`, `file-share`.
    pub fn processes(&self, role: &str) -> Vec<Process> {
        Process::with(&format!("{} __{role}", self.program().display()))
    }

    /// The engines that run this world's machines.
    pub fn engines(&self) -> Vec<Process> {
        Process::with(&format!("file.filename={}", self.root.path().display()))
    }

    /// Writes the configuration file.
    pub fn configure(&self, text: &str) {
        fs::write(self.path("config/container/config.toml"), text).unwrap();
    }

    /// Checks a stopped machine's disk as `e2fsck -fn` does. Fails unless it is clean.
    pub fn check_disk(&self, machine: &str) {
        let raw = self.path("checked.raw");
        let converted = Command::new("qemu-img")
            .args(["convert", "-O", "raw"])
            .arg(self.bundle(machine, "disk.qcow2"))
            .arg(&raw)
            .status();
        assert!(converted.unwrap().success());
        let checked = Command::new("/sbin/e2fsck").arg("-fn").arg(&raw).output();
        fs::remove_file(&raw).unwrap();
        let checked = Outcome::from(checked.unwrap());
        assert_eq!(checked.code, Some(0), "{checked:?}");
        assert!(
            !checked.stdout.contains("recovering journal"),
            "{checked:?}"
        );
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Ok(entries) = fs::read_dir(self.path("data/container/machines")) {
            let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
            for name in names {
                let outcome = self.run(&["rm", &name]);
                if outcome.code != Some(0) {
                    // The tests' own result stands.
                    let _ = writeln!(std::io::stderr(), "rm {name}: {}", outcome.stderr);
                }
            }
        }
        for role in ["service", "runtime"] {
            self.processes(role).iter().for_each(Process::kill);
        }
    }
}
