//! Sets up the machine's user at the first boot.
//!
//! An image may contain a set-up script, `/etc/machine/create-user.sh`, or have machine settings
//! with one. Otherwise the agent edits the account files itself, so no image needs `useradd`. Files
//! in the shared home belong to the host and are never changed.

use std::{
    fs, io,
    os::{
        fd::AsFd,
        unix::fs::{MetadataExt, PermissionsExt},
    },
    path::Path,
    process::Stdio,
};

use container_protocol::MachineSetup;

use super::{
    files::with_entry,
    host_groups, linger,
    passwd::{Group, PasswdEntry},
    root::{GuestRoot, descriptor_path},
    runtime_directory, shell, subordinate_ids, sudo,
};
use crate::{paths::SEARCH_PATH, stage::Stage};

/// The set-up script of an image.
const IMAGE_SCRIPT: &str = "/etc/machine/create-user.sh";

/// Path of the script of the machine settings while it runs. `/run` is a tmpfs, so that the script
/// never reaches the disk, and the agent mounts it without `noexec`.
const SETTINGS_SCRIPT: &str = "/run/machine-setup.sh";

/// Index of the home directory in a line of passwd(5).
const HOME_FIELD: usize = 5;

/// Limit on the output of a failed script in the error, in bytes. The end of the output is kept.
const MAX_REPORTED_OUTPUT: usize = 64 << 10;

/// Error of setting up the user.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UserError {
    /// A file of the machine could not be read or written.
    #[error("cannot set up user {user} in the machine: cannot {operation}: {cause}")]
    Files {
        /// Login name of the user.
        user: String,
        /// The failed operation, as an infinitive.
        operation: String,
        /// Error of a file access.
        cause: io::Error,
    },
    /// The login shell of the machine settings is missing in the image.
    #[error(
        "cannot set up user {user} in the machine: login shell {shell} of the image's machine \
         settings not found in the image"
    )]
    ShellNotFound {
        /// Login name of the user.
        user: String,
        /// Path of the shell.
        shell: String,
    },
    /// A set-up script failed.
    #[error("{script} failed ({status}); it printed:\n{output}")]
    Script {
        /// Description of the script.
        script: &'static str,
        /// Its exit status in words.
        status: String,
        /// The end of its output and its error output.
        output: String,
    },
}

/// Sets up the user with the image's script, else the script of its machine settings, else by the
/// [built-in](built_in) set-up.
pub(super) async fn set_up(root: &GuestRoot, setup: &MachineSetup) -> Result<(), UserError> {
    set_up_account(root, setup).await?;
    let user = &setup.user;
    if user.uid == 0 {
        return Ok(());
    }
    subordinate_ids::grant(root, &user.username, user.uid)
        .map_err(files_error(setup, "grant subordinate ids"))
}

async fn set_up_account(root: &GuestRoot, setup: &MachineSetup) -> Result<(), UserError> {
    if root.exists(IMAGE_SCRIPT) {
        let description = "the image's /etc/machine/create-user.sh";
        return run_script(root, setup, IMAGE_SCRIPT, description).await;
    }
    let Some(script) = &setup.setup_script else {
        return built_in(root, setup);
    };
    let failed = |verb: &str| files_error(setup, &format!("{verb} {SETTINGS_SCRIPT}"));
    root.write_bytes(SETTINGS_SCRIPT, script, 0o700)
        .map_err(failed("write"))?;
    let description = "the set-up script of the image's machine settings";
    run_script(root, setup, SETTINGS_SCRIPT, description).await?;
    root.remove(SETTINGS_SCRIPT).map_err(failed("remove"))
}

/// Returns the user's login shell: that of the machine settings, else the image's default.
fn login_shell(root: &GuestRoot, setup: &MachineSetup) -> String {
    setup
        .shell
        .clone()
        .unwrap_or_else(|| shell::default_shell(root))
}

/// Returns a function that makes a [`UserError::Files`] of a failed operation.
fn files_error(
    setup: &MachineSetup,
    operation: &str,
) -> impl FnOnce(io::Error) -> UserError + use<> {
    let (user, operation) = (setup.user.username.clone(), operation.to_owned());
    move |cause| UserError::Files {
        user,
        operation,
        cause,
    }
}

/// Runs a set-up script in the machine as root. docs/machines.md describes its environment.
async fn run_script(
    root: &GuestRoot,
    setup: &MachineSetup,
    path: &str,
    description: &'static str,
) -> Result<(), UserError> {
    let user = &setup.user;
    let mut command = Stage::SetUp {
        program: path.to_owned(),
    }
    .command();
    command
        .env_clear()
        .env("PATH", SEARCH_PATH)
        .env("CONTAINER_USER", &user.username)
        .env("CONTAINER_UID", user.uid.to_string())
        .env("CONTAINER_GID", user.gid.to_string())
        .env("CONTAINER_HOME", user.directory())
        .env("CONTAINER_SHELL", login_shell(root, setup))
        .env("CONTAINER_MACHINE_ID", &setup.id)
        .stdin(Stdio::null());
    let output = tokio::process::Command::from(command)
        .output()
        .await
        .map_err(files_error(setup, &format!("run {path}")))?;
    if output.status.success() {
        return Ok(());
    }
    let printed = [output.stdout, output.stderr].concat();
    let end = &printed[printed.len().saturating_sub(MAX_REPORTED_OUTPUT)..];
    Err(UserError::Script {
        script: description,
        status: output.status.to_string(),
        output: String::from_utf8_lossy(end).trim_end().to_owned(),
    })
}

/// Does what every boot does for the user: the runtime directory, the home, the host's groups. The
/// first boot may have had a shared home that this one does not have.
pub(super) fn update(root: &GuestRoot, setup: &MachineSetup) -> Result<(), UserError> {
    let user = &setup.user;
    let failed = |operation: &str| files_error(setup, operation);
    runtime_directory::create(root, user.uid, user.gid)
        .map_err(failed("create the runtime directory"))?;
    set_home(root, setup).map_err(failed("set the home directory"))?;
    if user.uid != 0 {
        make_home(root, setup).map_err(failed("create the home directory"))?;
        host_groups::join(root, user).map_err(failed("join the host's groups"))?;
    }
    linger::enable(root, &user.username, setup.occasion).map_err(failed("enable lingering"))
}

/// Makes the user's entry in passwd(5) agree with the home directory, which may be shared since
/// this boot, or no longer. A home that was chosen in the machine is kept.
fn set_home(root: &GuestRoot, setup: &MachineSetup) -> io::Result<()> {
    let (user, wanted) = (&setup.user, setup.user.directory());
    let users = root.read_or_empty("/etc/passwd")?;
    let Some((line, entry)) = users.lines().find_map(|line| {
        let entry = PasswdEntry::parse(line)?;
        (entry.uid == user.uid).then_some((line, entry))
    }) else {
        return Ok(());
    };
    if entry.home == wanted || !(entry.home == user.usual_home() || is_unused(root, &entry.home)?) {
        return Ok(());
    }
    let mut fields: Vec<&str> = line.split(':').collect();
    fields[HOME_FIELD] = &wanted;
    let changed = with_entry(&users, &entry.name, &fields.join(":"), |_| false);
    root.write("/etc/passwd", &changed, 0o644)
}

/// Returns whether a home directory does not exist, or is only the mount point of a shared one.
fn is_unused(root: &GuestRoot, home: &str) -> io::Result<bool> {
    match root.directory(home) {
        Ok(directory) => is_mount_point_only(&descriptor_path(directory.as_fd())),
        Err(_) => Ok(true),
    }
}

/// Sets up the user without a script: account files, sudo. Root exists in every
/// image; only its shell may have to change.
fn built_in(root: &GuestRoot, setup: &MachineSetup) -> Result<(), UserError> {
    if let Some(shell) = &setup.shell
        && !root.exists(shell)
    {
        return Err(UserError::ShellNotFound {
            user: setup.user.username.clone(),
            shell: shell.clone(),
        });
    }
    let failed = |operation: &str| files_error(setup, operation);
    if setup.user.uid == 0 {
        return match &setup.shell {
            Some(shell) => set_shell_of_root(root, shell).map_err(failed("edit the account files")),
            None => Ok(()),
        };
    }
    write_accounts(root, setup).map_err(failed("edit the account files"))?;
    sudo::grant(root, setup.user.uid).map_err(failed("grant sudo"))
}

fn set_shell_of_root(root: &GuestRoot, shell: &str) -> io::Result<()> {
    let users = root.read_or_empty("/etc/passwd")?;
    let is_root = |line: &&str| PasswdEntry::parse(line).is_some_and(|user| user.uid == 0);
    let Some(line) = users.lines().find(is_root) else {
        return Ok(());
    };
    let mut fields: Vec<&str> = line.split(':').take(6).collect();
    fields.push(shell);
    let changed = with_entry(&users, fields[0], &fields.join(":"), |_| false);
    root.write("/etc/passwd", &changed, 0o644)
}

/// Adds the user to the account files, with the group and user id of the host.
fn write_accounts(root: &GuestRoot, setup: &MachineSetup) -> io::Result<()> {
    let user = &setup.user;
    let (name, uid, gid) = (&user.username, user.uid, user.gid);
    root.make_directory("/etc")?;

    let groups = root.read_or_empty("/etc/group")?;
    let has_group = |matches: &dyn Fn(&Group) -> bool| {
        groups
            .lines()
            .filter_map(Group::parse)
            .any(|group| matches(&group))
    };
    if !has_group(&|group| group.gid == gid) {
        // The image may use the name for a group with another id.
        let group = if has_group(&|group| &group.name == name) {
            format!("{name}-{gid}")
        } else {
            name.clone()
        };
        let line = format!("{group}:x:{gid}:");
        root.write(
            "/etc/group",
            &with_entry(&groups, &group, &line, |_| false),
            0o644,
        )?;
    }

    let shell = login_shell(root, setup);
    let users = root.read_or_empty("/etc/passwd")?;
    let line = format!("{name}:x:{uid}:{gid}::{}:{shell}", user.directory());
    // Lookups by id return the first entry, so it is inserted before an image's user with this id.
    let same_id = |other: &str| PasswdEntry::parse(other).is_some_and(|entry| entry.uid == uid);
    root.write(
        "/etc/passwd",
        &with_entry(&users, name, &line, same_id),
        0o644,
    )?;

    let shadow = root.read_or_empty("/etc/shadow")?;
    // No password login (`*`); the date of the last change in 2024 keeps the password from
    // expiring.
    let line = format!("{name}:*:20000:0:99999:7:::");
    root.write(
        "/etc/shadow",
        &with_entry(&shadow, name, &line, |_| false),
        0o640,
    )
}

/// Creates the home directory from `/etc/skel`, unless it is in the shared home.
fn make_home(root: &GuestRoot, setup: &MachineSetup) -> io::Result<()> {
    let user = &setup.user;
    let home = user.directory();
    if let Some(share) = &setup.home_share
        && Path::new(&home).starts_with(&share.path)
    {
        return Ok(());
    }
    root.make_directory("/home")?;
    let is_new = root.make_directory(&home)?;
    let directory = root.directory(&home)?;
    let path = descriptor_path(directory.as_fd());
    if is_new || is_mount_point_only(&path)? {
        std::os::unix::fs::chown(&path, Some(user.uid), Some(user.gid))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        if let Ok(skeleton) = root.directory("/etc/skel") {
            copy_tree(
                &descriptor_path(skeleton.as_fd()),
                &path,
                user.uid,
                user.gid,
            )?;
        }
    }
    Ok(())
}

/// Returns whether a directory was only created as the mount point of a shared home.
fn is_mount_point_only(directory: &Path) -> io::Result<bool> {
    let is_empty = fs::read_dir(directory)?.next().is_none();
    Ok(is_empty && fs::metadata(directory)?.uid() == 0)
}

/// Copies the files below a directory and gives them to a user. `from` is trusted not to contain
/// special files.
fn copy_tree(from: &Path, to: &Path, uid: u32, gid: u32) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (kind, target) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_dir() {
            fs::create_dir(&target)?;
            copy_tree(&entry.path(), &target, uid, gid)?;
            fs::set_permissions(&target, entry.metadata()?.permissions())?;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(entry.path())?, &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
        }
        std::os::unix::fs::lchown(&target, Some(uid), Some(gid))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use container_protocol::{BootOccasion, GuestShare, GuestUser};

    use super::{super::passwd::Passwd, *};

    fn setup(share: Option<&str>) -> MachineSetup {
        MachineSetup {
            id: "dev".into(),
            network: None,
            home_share: share.map(|path| GuestShare {
                private: vec![],
                tag: "home".into(),
                path: path.into(),
                read_only: false,
            }),
            mounts: Vec::new(),
            user: GuestUser {
                username: "ann.lee".into(),
                uid: nix::unistd::getuid().as_raw().max(1),
                gid: 4242,
                home: None,
                groups: vec![],
            },
            shell: None,
            setup_script: None,
            virtualization: false,
            occasion: BootOccasion::First,
            rescue: false,
            init_environment: vec![],
            stop_signal: None,
            time_zone: None,
        }
    }

    #[test]
    fn shell_of_machine_settings_must_exist_in_image() {
        let directory = tempfile::tempdir().unwrap();
        let root = GuestRoot::at(directory.path()).unwrap();
        let mut setup = setup(Some("/home/ann.lee"));
        setup.shell = Some("/bin/zsh".to_owned());
        let error = built_in(&root, &setup).unwrap_err().to_string();
        assert!(error.contains("/bin/zsh"), "{error}");
        assert!(!root.exists("/etc/passwd"));

        root.make_directory("/bin").unwrap();
        root.make_directory("/etc").unwrap();
        root.write("/bin/zsh", "", 0o755).unwrap();
        let lines = "daemon:x:2:2::/:/bin/sh\nroot:x:0:0:root:/root:/bin/sh\n";
        root.write("/etc/passwd", lines, 0o644).unwrap();
        built_in(&root, &setup).unwrap();
        let user = PasswdEntry::parse(root.read("/etc/passwd").unwrap().lines().last().unwrap());
        assert_eq!(user.unwrap().shell, "/bin/zsh");

        root.write("/etc/passwd", lines, 0o644).unwrap();
        setup.user.uid = 0;
        built_in(&root, &setup).unwrap();
        let lines = "daemon:x:2:2::/:/bin/sh\nroot:x:0:0:root:/root:/bin/zsh\n";
        assert_eq!(root.read("/etc/passwd").unwrap(), lines);
    }

    #[test]
    fn user_with_an_id_of_the_image_precedes_and_has_sudo() {
        let directory = tempfile::tempdir().unwrap();
        let root = GuestRoot::at(directory.path()).unwrap();
        let setup = setup(Some("/home/ann.lee"));
        root.make_directory("/etc").unwrap();
        let taken = format!(
            "root:x:0:0::/root:/bin/sh\nubuntu:x:{}:1:::/bin/sh\n",
            setup.user.uid
        );
        fs::write(directory.path().join("etc/passwd"), taken).unwrap();
        fs::write(directory.path().join("etc/group"), "ann.lee:x:7:\n").unwrap();
        built_in(&root, &setup).unwrap();
        built_in(&root, &setup).unwrap();
        let passwd = Passwd::read(&root).unwrap();
        let user = passwd.by_uid(setup.user.uid).unwrap();
        assert_eq!(
            (user.name.as_str(), user.home.as_str()),
            ("ann.lee", "/home/ann.lee")
        );
        assert_eq!(
            root.read("/etc/group").unwrap(),
            "ann.lee:x:7:\nann.lee-4242:x:4242:\n"
        );
        let sudoers = root.read("/etc/sudoers.d/container-user").unwrap();
        let rule = format!("\n#{} ALL=(ALL:ALL) NOPASSWD:ALL\n", setup.user.uid);
        assert!(sudoers.ends_with(&rule), "{sudoers}");
        assert!(
            !directory.path().join("home").exists(),
            "the mount point of a shared home is not created here"
        );
    }
}
