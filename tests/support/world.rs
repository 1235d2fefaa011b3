//! An installed program with directories of its own.

use std::{
    fs,
    io::Write,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use serde_json::Value;
use tempfile::TempDir;
use xtask::{directories::target, installation};

use crate::{Outcome, Process, User};

/// An installed program with its own data, configuration, runtime and home directories, independent
/// of other worlds. Dropping it removes its machines.
pub struct World {
    root: TempDir,
    user: Option<User>,
    open_files: Option<u64>,
    has_templates: bool,
}

/// Installs the program at `prefix`, by links to one installation of this process. Copies would
/// write 200 MB for each world.
fn install(prefix: &Path) {
    static INSTALLED: OnceLock<PathBuf> = OnceLock::new();
    let installed = INSTALLED.get_or_init(|| {
        let shared = target().join("tmp/installation");
        installation::install(&shared).unwrap();
        shared
    });
    let mut link = Command::new("cp");
    link.args(["--archive", "--link"]).args([installed, prefix]);
    let linked = link.output().unwrap();
    if !linked.status.success() {
        // They are on different file systems.
        installation::install(prefix).unwrap();
    }
}

impl World {
    /// Creates a world of root.
    pub fn for_root() -> World {
        World::new(None)
    }

    /// Creates a world of a new ordinary user.
    pub fn for_user() -> World {
        World::new(Some(User::create()))
    }

    /// Creates a world of a new ordinary user whose data and configuration are in the home
    /// directory, where the program has them by default.
    pub fn for_user_in_home() -> World {
        let world = World::for_user();
        for (directory, in_home) in [("data", ".local/share"), ("config", ".config")] {
            let in_home = world.home().join(in_home);
            world.on_host(&["mkdir", "-p", &in_home.display().to_string()]);
            fs::remove_dir_all(world.path(directory)).unwrap();
            symlink(&in_home, world.path(directory)).unwrap();
        }
        world.on_host(&["mkdir", ".config/container"]);
        world
    }

    /// Runs a program of the host as this world's user, which must succeed.
    pub fn on_host(&self, line: &[&str]) {
        let outcome: Outcome = self
            .command(line[0].as_ref())
            .args(&line[1..])
            .output()
            .unwrap()
            .into();
        assert_eq!(outcome.code, Some(0), "{line:?}: {outcome:?}");
    }

    /// Creates a world of this user.
    pub fn for_existing_user(user: User) -> World {
        World::new(Some(user))
    }

    fn new(user: Option<User>) -> World {
        let root = tempfile::Builder::new()
            .prefix("world-")
            .tempdir_in("/var/tmp")
            .unwrap();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        install(&root.path().join("usr"));
        let world = World {
            root,
            user,
            open_files: None,
            has_templates: false,
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

    /// Lets machines start from templates. In other worlds every start boots a kernel: their
    /// machines do not live long enough to be worth the making of a template.
    pub fn with_templates(mut self) -> World {
        self.has_templates = true;
        self
    }

    /// Sets a limit on the open files of each process.
    pub fn with_open_files(mut self, limit: u64) -> World {
        self.open_files = Some(limit);
        self
    }

    /// Returns a path in this world's directory.
    pub fn path(&self, below: &str) -> PathBuf {
        self.root.path().join(below)
    }

    /// Returns the path of the installed program.
    pub fn program(&self) -> PathBuf {
        self.path("usr/bin/container")
    }

    /// Returns the ordinary user of this world, or `None` for root's.
    pub fn user(&self) -> Option<&User> {
        self.user.as_ref()
    }

    /// Returns the home directory that the machines share.
    pub fn home(&self) -> PathBuf {
        match &self.user {
            Some(user) => user.home(),
            None => self.path("home"),
        }
    }

    /// Returns a command that runs as this world's user, at home.
    pub fn command(&self, program: &Path) -> Command {
        let mut line: Vec<String> = Vec::new();
        if let Some(limit) = self.open_files {
            line.extend(["prlimit".to_owned(), format!("--nofile={limit}:{limit}")]);
        }
        if let Some(user) = &self.user {
            line.extend(["setpriv", "--inh-caps=-all"].map(str::to_owned));
            if user.groups.is_empty() {
                line.push("--clear-groups".to_owned());
            } else {
                let groups: Vec<String> = user.groups.iter().map(u32::to_string).collect();
                line.push(format!("--groups={}", groups.join(",")));
            }
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
            .env("CONTAINER_TEMPLATES", self.has_templates.to_string())
            .current_dir(self.home())
            .stdin(Stdio::null());
        for (name, value) in std::env::vars() {
            if name.to_ascii_lowercase().ends_with("_proxy") {
                command.env(name, value);
            }
        }
        command
    }

    /// Returns `container` with these arguments.
    pub fn container(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(&self.program());
        command.args(arguments);
        command
    }

    /// Returns `container machine` with these arguments.
    pub fn machine(&self, arguments: &[&str]) -> Command {
        self.container(&[&["machine"], arguments].concat())
    }

    /// Runs `container machine` and returns its outcome.
    pub fn run(&self, arguments: &[&str]) -> Outcome {
        self.machine(arguments).output().unwrap().into()
    }

    /// Runs `container machine`, which must succeed, and returns its standard output.
    pub fn stdout(&self, arguments: &[&str]) -> String {
        let outcome = self.run(arguments);
        assert_eq!(outcome.code, Some(0), "{arguments:?}: {outcome:?}");
        outcome.stdout
    }

    /// Runs `container machine`, which must fail, and returns its error.
    pub fn error(&self, arguments: &[&str]) -> String {
        self.run(arguments).error().to_owned()
    }

    /// Runs a shell line in a machine, which must succeed, and returns its standard output.
    pub fn inside(&self, machine: &str, line: &str) -> String {
        self.stdout(&["run", "-n", machine, line])
    }

    /// Creates a machine with little memory, so that several can run at once.
    pub fn create(&self, image: &str, machine: &str, more: &[&str]) {
        let arguments = [
            &["create", image, "--name", machine][..],
            &["--cpus", "2", "--memory", "1G"],
            more,
        ];
        assert_eq!(self.stdout(&arguments.concat()), format!("{machine}\n"));
    }

    /// Returns the output of `container machine inspect`.
    pub fn inspect(&self, machine: &str) -> Value {
        let mut printed: Value = serde_json::from_str(&self.stdout(&["inspect", machine])).unwrap();
        printed[0].take()
    }

    /// Returns whether a machine is reported as stopped.
    pub fn is_stopped(&self, machine: &str) -> bool {
        self.inspect(machine)["status"] == "stopped"
    }

    /// Returns the path of a file in a machine's bundle.
    pub fn bundle(&self, machine: &str, file: &str) -> PathBuf {
        self.path("data/container/machines")
            .join(machine)
            .join(file)
    }

    /// Returns the names of all bundles, including incomplete ones.
    pub fn bundles(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("data/container/machines")).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Returns this world's processes with a role: `service`, `runtime` or `file-share`.
    pub fn processes(&self, role: &str) -> Vec<Process> {
        Process::find(&format!("{} __{role}", self.program().display()))
    }

    /// Returns the QEMU processes of this world's machines.
    pub fn engines(&self) -> Vec<Process> {
        Process::find(&format!("file.filename={}", self.root.path().display()))
    }

    /// Writes the configuration file.
    pub fn configure(&self, text: &str) {
        fs::write(self.path("config/container/config.toml"), text).unwrap();
    }

    /// Checks a stopped machine's disk with `e2fsck -fn`. Panics unless it is clean.
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
                    // A panic here would hide the test's failure.
                    let _ = writeln!(std::io::stderr(), "rm {name}: {}", outcome.stderr);
                }
            }
        }
        for role in ["service", "runtime", "template"] {
            self.processes(role).iter().for_each(Process::kill);
        }
    }
}
