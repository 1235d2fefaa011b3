use std::{
    fs,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

static MADE: AtomicU32 = AtomicU32::new(0);

/// An ordinary user of this host, made for the tests and removed when dropped.
#[derive(Debug)]
pub struct User {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
}

impl User {
    /// Makes a user with a home directory and no privileges.
    pub fn make() -> User {
        let number = MADE.fetch_add(1, Ordering::Relaxed);
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

    /// The user's home directory.
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
