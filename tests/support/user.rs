//! A user of this host.

use std::{
    fs,
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
}

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
            name,
        }
    }

    /// Returns the path of the user's home directory.
    pub fn home(&self) -> PathBuf {
        PathBuf::from("/home").join(&self.name)
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let removed = Command::new("/usr/sbin/userdel")
            .args(["--force", "--remove", &self.name])
            .output();
        drop(removed);
    }
}
