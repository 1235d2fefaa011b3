//! The machine's user, set up once, at its first boot.
//!
//! An image may bring its own set-up, `/etc/machine/create-user.sh`, or machine settings with a
//! script; else the account files are edited directly, so that no image needs `useradd`. Nothing
//! below a shared home is ever touched: it is the user's own.

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
    passwd::{Group, Passwd, PasswdEntry},
    root::{GuestRoot, descriptor_path},
};
use crate::stage::Stage;

const SCRIPT: &str = "/etc/machine/create-user.sh";
/// Where the script of the machine settings is while it runs: on a tmpfs, which the agent itself
/// has mounted without `noexec`, so that nothing of it reaches the disk.
const SCRIPT_OF_SETTINGS: &str = "/run/machine-setup.sh";
/// As much of what a failed script printed is told, from its end.
const LONGEST_OUTPUT: usize = 64 << 10;

/// Why the user could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// A file of the machine could not be read or written.
    #[error("setting up user {user} in the machine: {doing}: {source}")]
    Files {
        /// The user's name.
        user: String,
        /// Which file.
        doing: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The image's settings name a shell that it does not have.
    #[error(
        "setting up user {user} in the machine: the image's machine settings name the login shell {shell}, which the image does not have"
    )]
    NoShell {
        /// The user's name.
        user: String,
        /// The shell.
        shell: String,
    },
    /// The image's own set-up failed.
    #[error("{script} failed ({status}); it printed:\n{output}")]
    Script {
        /// Which script.
        script: &'static str,
        /// How it ended.
        status: String,
        /// What it printed.
        output: String,
    },
}

/// Sets the user up: by the image's own script where it has one, else by that of its settings,
/// else by [`built_in`].
pub async fn set_up(root: &GuestRoot, setup: &MachineSetup) -> Result<(), UserError> {
    if root.exists(SCRIPT) {
        return run_script(
            root,
            setup,
            SCRIPT,
            "the image's /etc/machine/create-user.sh",
        )
        .await;
    }
    let Some(script) = &setup.setup_script else {
        return built_in(root, setup);
    };
    let failed = |doing: &str| files_failed(setup, &format!("{doing} {SCRIPT_OF_SETTINGS}"));
    root.write_bytes(SCRIPT_OF_SETTINGS, script, 0o700)
        .map_err(failed("writing"))?;
    let what = "the set-up script of the image's machine settings";
    run_script(root, setup, SCRIPT_OF_SETTINGS, what).await?;
    root.remove(SCRIPT_OF_SETTINGS).map_err(failed("removing"))
}

/// The user's login shell.
fn shell_of_user(root: &GuestRoot, setup: &MachineSetup) -> String {
    setup.shell.clone().unwrap_or_else(|| shell_of_image(root))
}

fn files_failed(setup: &MachineSetup, doing: &str) -> impl FnOnce(io::Error) -> UserError + use<> {
    let (user, doing) = (setup.home.username.clone(), doing.to_owned());
    move |source| UserError::Files {
        user,
        doing,
        source,
    }
}

async fn run_script(
    root: &GuestRoot,
    setup: &MachineSetup,
    path: &str,
    what: &'static str,
) -> Result<(), UserError> {
    let user = &setup.home;
    let mut command = Stage::SetUp {
        program: path.to_owned(),
    }
    .command();
    command
        .env_clear()
        .env("PATH", crate::commands::PATH)
        .env("CONTAINER_USER", &user.username)
        .env("CONTAINER_UID", user.uid.to_string())
        .env("CONTAINER_GID", user.gid.to_string())
        .env("CONTAINER_HOME", user.directory())
        .env("CONTAINER_SHELL", shell_of_user(root, setup))
        .env("CONTAINER_MACHINE_ID", &setup.id)
        .stdin(Stdio::null());
    let output = tokio::process::Command::from(command)
        .output()
        .await
        .map_err(files_failed(setup, &format!("running {path}")))?;
    if output.status.success() {
        return Ok(());
    }
    let printed = [output.stdout, output.stderr].concat();
    let end = &printed[printed.len().saturating_sub(LONGEST_OUTPUT)..];
    Err(UserError::Script {
        script: what,
        status: output.status.to_string(),
        output: String::from_utf8_lossy(end).trim_end().to_owned(),
    })
}

/// Gives the user a home of the machine's own where there is none yet: the shared one may have been
/// taken away since the first boot.
pub fn ensure_home(root: &GuestRoot, setup: &MachineSetup) -> Result<(), UserError> {
    if setup.home.uid == 0 {
        return Ok(());
    }
    make_home(root, setup).map_err(|source| UserError::Files {
        user: setup.home.username.clone(),
        doing: "making the home directory".to_owned(),
        source,
    })
}

/// The built-in set-up: account files, home, sudo. Root has all of them but the shell.
fn built_in(root: &GuestRoot, setup: &MachineSetup) -> Result<(), UserError> {
    if let Some(shell) = &setup.shell
        && !root.exists(shell)
    {
        return Err(UserError::NoShell {
            user: setup.home.username.clone(),
            shell: shell.clone(),
        });
    }
    let failed = |doing: &str| files_failed(setup, doing);
    if setup.home.uid == 0 {
        return match &setup.shell {
            Some(shell) => {
                set_shell_of_root(root, shell).map_err(failed("editing the account files"))
            }
            None => Ok(()),
        };
    }
    write_accounts(root, setup).map_err(failed("editing the account files"))?;
    make_home(root, setup).map_err(failed("making the home directory"))?;
    grant_sudo(root, &setup.home.username).map_err(failed("granting sudo"))
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

fn write_accounts(root: &GuestRoot, setup: &MachineSetup) -> io::Result<()> {
    let user = &setup.home;
    let (name, uid, gid) = (&user.username, user.uid, user.gid);
    root.make_directory("/etc")?;

    let groups = root.read_or_empty("/etc/group")?;
    let known = |wanted: &dyn Fn(&Group) -> bool| {
        groups
            .lines()
            .filter_map(Group::parse)
            .any(|group| wanted(&group))
    };
    if !known(&|group| group.gid == gid) {
        // The name may be another group's in this image.
        let group = if known(&|group| &group.name == name) {
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

    let shell = shell_of_user(root, setup);
    let users = root.read_or_empty("/etc/passwd")?;
    let line = format!("{name}:x:{uid}:{gid}::{}:{shell}", user.directory());
    // Before another user of the same id, so that the id means this user.
    let same_id = |other: &str| PasswdEntry::parse(other).is_some_and(|entry| entry.uid == uid);
    root.write(
        "/etc/passwd",
        &with_entry(&users, name, &line, same_id),
        0o644,
    )?;

    let shadow = root.read_or_empty("/etc/shadow")?;
    let line = format!("{name}:*:20000:0:99999:7:::");
    root.write(
        "/etc/shadow",
        &with_entry(&shadow, name, &line, |_| false),
        0o640,
    )
}

/// Makes the home directory from `/etc/skel`, where it is not (in) the shared one.
fn make_home(root: &GuestRoot, setup: &MachineSetup) -> io::Result<()> {
    let user = &setup.home;
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

/// Whether a directory is as it was made for the shared home to be mounted on.
fn is_mount_point_only(directory: &Path) -> io::Result<bool> {
    let is_empty = fs::read_dir(directory)?.next().is_none();
    Ok(is_empty && fs::metadata(directory)?.uid() == 0)
}

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

fn grant_sudo(root: &GuestRoot, user: &str) -> io::Result<()> {
    if root.make_directory("/etc/sudoers.d")? {
        let made = root.directory("/etc/sudoers.d")?;
        fs::set_permissions(
            descriptor_path(made.as_fd()),
            fs::Permissions::from_mode(0o750),
        )?;
    }
    let file = format!("/etc/sudoers.d/{}", user.replace('.', "_"));
    root.write(&file, &format!("{user} ALL=(ALL) NOPASSWD:ALL\n"), 0o440)
}

/// The shell that the image gives new users: on the Debian family `DSHELL` of adduser.conf,
/// else bash; elsewhere `SHELL` of useradd's defaults, else sh.
pub fn shell_of_image(root: &GuestRoot) -> String {
    let setting = |file: &str, key: &str| {
        let text = root.read(file).ok()?;
        let value = text.lines().find_map(|line| {
            line.trim()
                .strip_prefix(key)?
                .trim_start()
                .strip_prefix('=')
        })?;
        let value = value.trim().trim_matches('"');
        (!value.is_empty() && root.exists(value)).then(|| value.to_owned())
    };
    if root.exists("/etc/debian_version") {
        setting("/etc/adduser.conf", "DSHELL")
            .or_else(|| root.exists("/bin/bash").then(|| "/bin/bash".to_owned()))
            .unwrap_or_else(|| "/bin/sh".to_owned())
    } else {
        setting("/etc/default/useradd", "SHELL").unwrap_or_else(|| "/bin/sh".to_owned())
    }
}

impl Passwd {
    /// The shell of `user`: the one passwd names, else the image's own. One that only refuses
    /// (`nologin`, `false`) keeps people from logging in, not the machine's owner from running
    /// something as that user.
    pub fn shell_of(&self, user: Option<&PasswdEntry>, root: &GuestRoot) -> String {
        let refuses = |shell: &str| shell.ends_with("/nologin") || shell.ends_with("/false");
        user.map(|user| user.shell.clone())
            .filter(|shell| !shell.is_empty() && !refuses(shell))
            .unwrap_or_else(|| shell_of_image(root))
    }
}

#[cfg(test)]
mod tests {
    use container_protocol::{GuestHome, HomeShare};

    use super::*;

    fn setup(share: Option<&str>) -> MachineSetup {
        MachineSetup {
            id: "dev".into(),
            network: None,
            home_share: share.map(|path| HomeShare {
                tag: "home".into(),
                path: path.into(),
                read_only: false,
            }),
            home: GuestHome {
                username: "ann.lee".into(),
                uid: nix::unistd::getuid().as_raw().max(1),
                gid: 4242,
            },
            shell: None,
            setup_script: None,
            virtualization: false,
            first_boot: true,
            init_environment: vec![],
            stop_signal: None,
        }
    }

    #[test]
    fn the_shell_of_the_settings_is_the_users_if_it_is_there() {
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
        setup.home.uid = 0;
        built_in(&root, &setup).unwrap();
        let lines = "daemon:x:2:2::/:/bin/sh\nroot:x:0:0:root:/root:/bin/zsh\n";
        assert_eq!(root.read("/etc/passwd").unwrap(), lines);
    }

    #[test]
    fn a_taken_id_means_the_new_user_and_sudo_is_granted() {
        let directory = tempfile::tempdir().unwrap();
        let root = GuestRoot::at(directory.path()).unwrap();
        let setup = setup(Some("/home/ann.lee"));
        root.make_directory("/etc").unwrap();
        let taken = format!(
            "root:x:0:0::/root:/bin/sh\nubuntu:x:{}:1:::/bin/sh\n",
            setup.home.uid
        );
        fs::write(directory.path().join("etc/passwd"), taken).unwrap();
        fs::write(directory.path().join("etc/group"), "ann.lee:x:7:\n").unwrap();
        built_in(&root, &setup).unwrap();
        built_in(&root, &setup).unwrap();
        let passwd = Passwd::read(&root).unwrap();
        let user = passwd.by_uid(setup.home.uid).unwrap();
        assert_eq!(
            (user.name.as_str(), user.home.as_str()),
            ("ann.lee", "/home/ann.lee")
        );
        assert_eq!(
            root.read("/etc/group").unwrap(),
            "ann.lee:x:7:\nann.lee-4242:x:4242:\n"
        );
        assert_eq!(
            root.read("/etc/sudoers.d/ann_lee").unwrap(),
            "ann.lee ALL=(ALL) NOPASSWD:ALL\n"
        );
        assert!(
            !directory.path().join("home").exists(),
            "a shared home is not made or touched"
        );
    }

    #[test]
    fn an_image_says_what_shell_its_users_have() {
        let directory = tempfile::tempdir().unwrap();
        let root = GuestRoot::at(directory.path()).unwrap();
        let write = |path: &str, text: &str| {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        assert_eq!(shell_of_image(&root), "/bin/sh");
        write("etc/default/useradd", "# x\nSHELL=/bin/ash\n");
        assert_eq!(
            shell_of_image(&root),
            "/bin/sh",
            "what is not there is no shell"
        );
        write("bin/ash", "");
        assert_eq!(shell_of_image(&root), "/bin/ash");
        write("etc/debian_version", "12\n");
        assert_eq!(shell_of_image(&root), "/bin/sh");
        write("bin/bash", "");
        assert_eq!(shell_of_image(&root), "/bin/bash");
        write("etc/adduser.conf", "DSHELL=\"/usr/bin/zsh\"\n");
        write("usr/bin/zsh", "");
        assert_eq!(shell_of_image(&root), "/usr/bin/zsh");
    }
}
