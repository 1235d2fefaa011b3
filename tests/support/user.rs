//! A user of this host.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::chown,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

/// Number of users created so far, for unique names.
static CREATED: AtomicU32 = AtomicU32::new(0);

/// An ordinary user of this host. Dropping it removes the user.
#[derive(Debug)]
pub struct User {
    /// Login name.
    pub name: String,
    /// Numeric user id.
    pub uid: u32,
    /// Numeric id of the primary group.
    pub gid: u32,
    /// Numeric ids of the supplementary groups.
    pub groups: Vec<u32>,
    home: PathBuf,
}

/// First id of the users and groups of [`User::of_directory_service`].
const FIRST_ID: u32 = 20_000;

impl User {
    /// Creates a user with a home directory and no privileges.
    pub fn create() -> User {
        let number = CREATED.fetch_add(1, Ordering::Relaxed);
        let name = format!("ct.{}-{number}", std::process::id());
        let made = Command::new("/usr/sbin/useradd")
            .args(["--create-home", "--shell", "/bin/bash", "--badname", &name])
            .status();
        assert!(made.unwrap().success(), "useradd {name}");
        let passwd = fs::read_to_string("/etc/passwd").unwrap();
        let line = passwd
            .lines()
            .find(|line| line.starts_with(&format!("{name}:")))
            .unwrap();
        let fields: Vec<&str> = line.split(':').collect();
        User {
            uid: fields[2].parse().unwrap(),
            gid: fields[3].parse().unwrap(),
            home: PathBuf::from("/home").join(&name),
            groups: Vec::new(),
            name,
        }
    }

    /// Creates a user with any name, as directory services have them, with a home directory that is
    /// not below `/home`, and with one supplementary group, which has the same name and its own id.
    pub fn of_directory_service(name: &str) -> User {
        let number = CREATED.fetch_add(1, Ordering::Relaxed);
        let id = FIRST_ID + 2 * (std::process::id() % 10_000 + number);
        let home = PathBuf::from(format!("/srv/home-{id}/ann"));
        let user = User {
            name: name.to_owned(),
            uid: id,
            gid: id,
            groups: vec![id + 1],
            home,
        };
        append(
            "/etc/passwd",
            &format!("{name}:x:{id}:{id}::{}:/bin/bash", user.home.display()),
        );
        append("/etc/group", &format!("group-{id}:x:{id}:"));
        append("/etc/group", &format!("devs-{id}:x:{}:{name}", id + 1));
        fs::create_dir_all(&user.home).unwrap();
        chown(&user.home, Some(id), Some(id)).unwrap();
        user
    }

    /// Returns the path of the user's home directory.
    pub fn home(&self) -> PathBuf {
        self.home.clone()
    }
}

/// Appends a line to an account file.
fn append(file: &str, line: &str) {
    let mut file = File::options().append(true).open(file).unwrap();
    writeln!(file, "{line}").unwrap();
}

/// Removes the lines with an id from an account file.
fn remove(file: &str, id: u32) {
    let text = fs::read_to_string(file).unwrap();
    let id = id.to_string();
    let kept: Vec<&str> = text
        .lines()
        .filter(|line| line.split(':').nth(2) != Some(&id))
        .collect();
    fs::write(file, kept.join("\n") + "\n").unwrap();
}

impl Drop for User {
    fn drop(&mut self) {
        if !self.groups.is_empty() {
            remove("/etc/passwd", self.uid);
            remove("/etc/group", self.gid);
            remove("/etc/group", self.groups[0]);
            let _ = fs::remove_dir_all(self.home.parent().unwrap());
            return;
        }
        let removed = Command::new("/usr/sbin/userdel")
            .args(["--force", "--remove", &self.name])
            .output();
        drop(removed);
    }
}
