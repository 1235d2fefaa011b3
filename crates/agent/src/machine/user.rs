//! The machine's user, set up once, at its first boot.
//!
//! An image may bring its own set-up, `/etc/machine/create-user.sh`; else the account files are
//! edited directly, so that no image needs `useradd`. Nothing below a shared home is ever
//! touched: it is the user's own.

use std::{
    fs, io,
    os::{fd::AsFd, unix::fs::PermissionsExt},
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
    /// The image's own set-up failed.
    #[error("the image's {SCRIPT} failed ({status}); it printed:\n{output}")]
    Script {
        /// How it ended.
        status: String,
        /// What it printed.
        output: String,
    },
}

/// Sets the user up: by the image's own script where it has one, else by [`built_in`].
pub async fn set_up(root: &GuestRoot, setup: &MachineSetup) -> Result<(), UserError> {
    if root.exists(SCRIPT) {
        return run_script(setup, &shell_of_image(root)).await;
    }
    if setup.home.uid == 0 {
        return Ok(());
    }
    built_in(root, setup)
}

async fn run_script(setup: &MachineSetup, shell: &str) -> Result<(), UserError> {
    let user = &setup.home;
    let mut command = Stage::SetUp {
        program: SCRIPT.to_owned(),
    }
    .command();
    command
        .env_clear()
        .env("PATH", crate::commands::PATH)
        .env("CONTAINER_USER", &user.username)
        .env("CONTAINER_UID", user.uid.to_string())
        .env("CONTAINER_GID", user.gid.to_string())
        .env("CONTAINER_HOME", user.directory())
        .env("CONTAINER_SHELL", shell)
        .env("CONTAINER_MACHINE_ID", &setup.id)
        .stdin(Stdio::null());
    let output = tokio::process::Command::from(command)
        .output()
        .await
        .map_err(|source| UserError::Files {
            user: user.username.clone(),
            doing: format!("running {SCRIPT}"),
            source,
        })?;
    if output.status.success() {
        return Ok(());
    }
    let mut printed = String::from_utf8_lossy(&output.stdout).into_owned();
    printed.push_str(&String::from_utf8_lossy(&output.stderr));
    Err(UserError::Script {
        status: output.status.to_string(),
        output: printed.trim_end().to_owned(),
    })
}

/// The built-in set-up: account files, home, sudo.
fn built_in(root: &GuestRoot, setup: &MachineSetup) -> Result<(), UserError> {
    let failed = |doing: &str| {
        let (user, doing) = (setup.home.username.clone(), doing.to_owned());
        move |source| UserError::Files {
            user,
            doing,
            source,
        }
    };
    write_accounts(root, setup).map_err(failed("editing the account files"))?;
    make_home(root, setup).map_err(failed("making the home directory"))?;
    grant_sudo(root, &setup.home.username).map_err(failed("granting sudo"))
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

    let shell = shell_of_image(root);
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
    std::os::unix::fs::chown(&path, Some(user.uid), Some(user.gid))?;
    if is_new {
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
            first_boot: true,
            init_environment: vec![],
            stop_signal: None,
        }
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
}
