//! Chooses the login shell of a user.

use super::{passwd::PasswdEntry, root::GuestRoot};

/// Returns the shells for commands of `user`, best first: the one in the passwd file, the image's
/// default, and `/bin/sh`.
///
/// A relative path counts as none, and so do `nologin` and `false`: they forbid logins, but the
/// machine's owner may run commands as any user.
pub(crate) fn login_shells(user: Option<&PasswdEntry>, root: &GuestRoot) -> Vec<String> {
    let forbids_logins = |shell: &str| shell.ends_with("/nologin") || shell.ends_with("/false");
    let own = user
        .map(|user| user.shell.clone())
        .filter(|shell| shell.starts_with('/') && !forbids_logins(shell));
    let mut shells = Vec::new();
    for shell in own
        .into_iter()
        .chain([default_shell(root), "/bin/sh".to_owned()])
    {
        if !shells.contains(&shell) {
            shells.push(shell);
        }
    }
    shells
}

/// Returns the shell that the image gives to new users: in the Debian family `DSHELL` of
/// adduser.conf, else bash; in others `SHELL` of useradd's defaults; else sh.
pub(super) fn default_shell(root: &GuestRoot) -> String {
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn default_shell_is_that_of_the_image() {
        let directory = tempfile::tempdir().unwrap();
        let root = GuestRoot::at(directory.path()).unwrap();
        let write = |path: &str, text: &str| {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        assert_eq!(default_shell(&root), "/bin/sh");
        write("etc/default/useradd", "# x\nSHELL=/bin/ash\n");
        assert_eq!(
            default_shell(&root),
            "/bin/sh",
            "a configured shell that does not exist is ignored"
        );
        write("bin/ash", "");
        assert_eq!(default_shell(&root), "/bin/ash");
        write("etc/debian_version", "12\n");
        assert_eq!(default_shell(&root), "/bin/sh");
        write("bin/bash", "");
        assert_eq!(default_shell(&root), "/bin/bash");
        write("etc/adduser.conf", "DSHELL=\"/usr/bin/zsh\"\n");
        write("usr/bin/zsh", "");
        assert_eq!(default_shell(&root), "/usr/bin/zsh");
    }

    #[test]
    fn shells_that_are_none_are_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        let root = GuestRoot::at(directory.path()).unwrap();
        let shells = |shell: &str| {
            let user = PasswdEntry::parse(&format!("ann:x:1000:1000::/home/ann:{shell}"));
            login_shells(user.as_ref(), &root)
        };
        assert_eq!(shells("/opt/fish"), ["/opt/fish", "/bin/sh"]);
        for shell in ["", "fish", "/usr/sbin/nologin", "/bin/false"] {
            assert_eq!(shells(shell), ["/bin/sh"], "{shell}");
        }
    }
}
