//! Confines QEMU with Landlock (Linux, Documentation/userspace-api/landlock.rst) to the files that
//! it needs, so that a guest that breaks out of it does not get the user's other files.
//!
//! QEMU may read what programs need in general, its own installation, the kernel, and the disk's
//! layers and base, and write the disk. It may use no TCP, connect to no abstract socket that it
//! did not make, and send no signals to other processes. Descriptors are not affected: it gets
//! those of the console and of [other files](super::passed_file) that it writes.

use std::{
    env,
    path::{Path, PathBuf},
};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError, Scope, make_bitflags, path_beneath_rules,
};

use super::disk;

/// The latest version of Landlock that QEMU was tested with. An older kernel restricts less.
const LANDLOCK: ABI = ABI::V7;

/// Where programs, libraries and their data are installed.
const SYSTEM_DIRECTORIES: [&str; 10] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/etc",
    "/opt",
    "/nix/store",
    "/gnu/store",
];

/// Where the kernel describes the host's processors and memory, and the process its descriptors.
/// The kernel protects other processes' memory and environment from a confined one.
const KERNEL_DIRECTORIES: [&str; 2] = ["/proc", "/sys"];

const DEVICES: [&str; 5] = [
    "/dev/kvm",
    "/dev/null",
    "/dev/zero",
    "/dev/random",
    "/dev/urandom",
];

/// Returns whether the host's kernel can confine processes.
pub fn can_confine() -> bool {
    let rules = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1));
    rules.and_then(Ruleset::create).is_ok()
}

/// What one QEMU process may open.
#[derive(Debug)]
pub(super) struct Confinement {
    readable: Vec<PathBuf>,
    disk: PathBuf,
}

impl Confinement {
    /// Lets a machine with this disk run. Its kernel and its initramfs are `boot_files`.
    pub(super) fn new(disk: &Path, boot_files: [PathBuf; 2]) -> Confinement {
        let mut readable = Vec::from(boot_files);
        // QEMU reports a disk that cannot be read.
        if let Ok((layers, base)) = disk::read_chain(disk) {
            readable.extend(layers.into_iter().chain(base));
        }
        Confinement {
            readable,
            disk: disk.to_owned(),
        }
    }

    /// Also lets a file be read.
    pub(super) fn add_readable(&mut self, file: &Path) {
        self.readable.push(file.to_owned());
    }

    /// Returns the rules for `program`, which a process restricts itself by.
    pub(super) fn rules(&self, program: &Path) -> Result<RulesetCreated, RulesetError> {
        let read = AccessFs::from_read(LANDLOCK);
        let read_file: BitFlags<AccessFs> = AccessFs::ReadFile.into();
        let device = make_bitflags!(AccessFs::{ReadFile | WriteFile | IoctlDev});
        let write = make_bitflags!(AccessFs::{ReadFile | WriteFile | Truncate});
        Ruleset::default()
            .handle_access(AccessFs::from_all(LANDLOCK))?
            .handle_access(AccessNet::from_all(LANDLOCK))?
            .scope(Scope::from_all(LANDLOCK))?
            .create()?
            .add_rules(path_beneath_rules(SYSTEM_DIRECTORIES, read))?
            .add_rules(path_beneath_rules(installation(program), read))?
            .add_rules(path_beneath_rules(
                KERNEL_DIRECTORIES,
                read_file | AccessFs::ReadDir,
            ))?
            .add_rules(path_beneath_rules(DEVICES, device))?
            .add_rules(path_beneath_rules(&self.readable, read_file))?
            .add_rules(path_beneath_rules([&self.disk], write))
    }
}

/// Returns where a program and its data are: its directory, and what that is the `bin` of, unless
/// this is the user's home.
fn installation(program: &Path) -> Vec<PathBuf> {
    let found = program.canonicalize();
    let program = found.as_deref().unwrap_or(program);
    let Some(directory) = program.parent() else {
        return Vec::new();
    };
    let prefix = directory.parent().filter(|prefix| {
        let is_home = env::home_dir().is_some_and(|home| home.starts_with(prefix));
        directory.ends_with("bin") && !is_home
    });
    let directories = [directory].into_iter().chain(prefix);
    directories.map(Path::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        io::{self, Read},
    };

    use super::*;
    use crate::qemu::child::{Inherited, spawn};

    /// Runs a shell script in place of QEMU, and returns its output.
    fn run(confinement: &Confinement, script: String) -> String {
        let (program, arguments) = (Path::new("/bin/sh"), ["-c".to_owned(), script]);
        let (mut reader, writer) = io::pipe().unwrap();
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().build().unwrap().block_on(async {
            let rules = confinement.rules(program).unwrap();
            let inherited = Inherited::default();
            let mut child = spawn(program, &arguments, Some(rules), inherited, writer).unwrap();
            child.wait().await.unwrap();
        });
        let mut output = String::new();
        reader.read_to_string(&mut output).unwrap();
        output
    }

    #[test]
    fn only_the_files_of_the_machine_can_be_opened() {
        let (machine, kernel, other) = (
            tempfile::tempdir().unwrap(),
            tempfile::tempdir().unwrap(),
            tempfile::tempdir().unwrap(),
        );
        let path = |directory: &tempfile::TempDir, name: &str| directory.path().join(name);
        for directory in [&machine, &kernel, &other] {
            fs::write(path(directory, "file"), "contents ").unwrap();
            fs::write(path(directory, "second"), "more ").unwrap();
        }
        let boot_files = [path(&kernel, "file"), path(&kernel, "absent")];
        let confinement = Confinement::new(&path(&machine, "file"), boot_files);
        let line = |command: &str, file: PathBuf| {
            format!(
                "({command} {} && echo yes || echo no) 2> /dev/null",
                file.display()
            )
        };
        let script = [
            line("cat", path(&machine, "file")),
            line("echo 1 >", path(&machine, "file")),
            line("cat", path(&machine, "second")),
            line("echo 1 >", path(&machine, "new")),
            line("cat", path(&kernel, "file")),
            line("cat", path(&kernel, "second")),
            line("echo 1 >", path(&kernel, "file")),
            line("cat", path(&other, "file")),
            line("echo 1 >", path(&other, "new")),
            line("rm", path(&machine, "second")),
            format!(
                "kill -0 {} 2> /dev/null && echo yes || echo no",
                std::process::id()
            ),
        ];
        let output = run(&confinement, script.join("\n"));
        let expected = "contents yes\nyes\nno\nno\ncontents yes\nno\nno\nno\nno\nno\nno\n";
        assert_eq!(output, expected);
        for directory in [&machine, &other] {
            assert!(!path(directory, "new").exists());
        }
    }

    #[test]
    fn the_home_is_no_installation() {
        let home = env::home_dir().unwrap();
        let directory = |path: &str| home.join(path);
        assert_eq!(installation(&directory("bin/q")), [directory("bin")]);
        assert_eq!(installation(&directory("qemu/q")), [directory("qemu")]);
        assert_eq!(
            installation(&directory("local/bin/q")),
            [directory("local/bin"), directory("local")]
        );
    }
}
