//! The machine's time zone, set at the first boot.

use std::{io, os::fd::AsFd};

use container_protocol::GuestTimeZone;

use super::root::{GuestRoot, descriptor_path};

const LOCAL_TIME: &str = "/etc/localtime";

/// Debian's second place for the name.
const NAME: &str = "/etc/timezone";

/// Sets the time zone, unless the image has one that counts more.
pub(super) fn set(
    root: &GuestRoot,
    zone: &GuestTimeZone,
    image_environment: &[String],
) -> io::Result<()> {
    if !zone.replaces_image && is_set_by_image(root, image_environment) {
        return Ok(());
    }
    let database_file = zone
        .name
        .as_ref()
        .map(|name| format!("/usr/share/zoneinfo/{name}"))
        .filter(|file| root.exists(file));
    match (database_file, &zone.rules) {
        (Some(file), _) => {
            root.make_directory("/etc")?;
            remove_local_time(root)?;
            let etc = root.directory("/etc")?;
            rustix::fs::symlinkat(format!("..{file}"), &etc, "localtime")?;
        }
        // Without a time zone database in the image.
        (None, Some(rules)) => {
            root.make_directory("/etc")?;
            remove_local_time(root)?;
            root.write_bytes(LOCAL_TIME, rules, 0o644)?;
        }
        (None, None) => {
            let name = zone.name.as_deref().unwrap_or_default();
            let message = format!("time zone {name} not found on the host and in the image");
            return Err(io::Error::new(io::ErrorKind::NotFound, message));
        }
    }
    match &zone.name {
        Some(name) if root.exists(NAME) => root.write(NAME, &format!("{name}\n"), 0o644),
        _ => Ok(()),
    }
}

fn remove_local_time(root: &GuestRoot) -> io::Result<()> {
    match root.remove(LOCAL_TIME) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Returns whether the image sets a time zone. UTC in `/etc/localtime` is the default of images
/// and not a choice; `TZ` in the environment is one.
fn is_set_by_image(root: &GuestRoot, environment: &[String]) -> bool {
    if environment.iter().any(|pair| pair.starts_with("TZ=")) {
        return true;
    }
    let link = root
        .directory("/etc")
        .and_then(|etc| std::fs::read_link(descriptor_path(etc.as_fd()).join("localtime")));
    match link {
        Ok(target) => !is_utc(&target.to_string_lossy()),
        // A regular file's rules name its zones.
        Err(_) => root
            .read(LOCAL_TIME)
            .is_ok_and(|rules| !rules.trim_end().ends_with("\nUTC0")),
    }
}

/// Returns whether a path in the time zone database is one of UTC's names.
fn is_utc(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    [
        "UTC",
        "UCT",
        "Universal",
        "Zulu",
        "GMT",
        "GMT0",
        "Greenwich",
    ]
    .contains(&name)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, path::Path};

    use super::*;

    fn berlin(replaces_image: bool) -> GuestTimeZone {
        GuestTimeZone {
            name: Some("Europe/Berlin".to_owned()),
            rules: Some(b"TZif2 berlin".to_vec()),
            replaces_image,
        }
    }

    #[test]
    fn database_of_the_image_is_preferred_to_a_copy() {
        let directory = tempfile::tempdir().unwrap();
        let root = GuestRoot::at(directory.path()).unwrap();
        let file = |name: &str| directory.path().join(name);
        set(&root, &berlin(false), &[]).unwrap();
        assert_eq!(fs::read(file("etc/localtime")).unwrap(), b"TZif2 berlin");

        root.make_directory("/usr/share/zoneinfo/Europe").unwrap();
        fs::write(file("usr/share/zoneinfo/Europe/Berlin"), "").unwrap();
        fs::remove_file(file("etc/localtime")).unwrap();
        symlink("/usr/share/zoneinfo/Etc/UTC", file("etc/localtime")).unwrap();
        fs::write(file("etc/timezone"), "Etc/UTC\n").unwrap();
        set(&root, &berlin(false), &[]).unwrap();
        assert_eq!(
            fs::read_link(file("etc/localtime")).unwrap(),
            Path::new("../usr/share/zoneinfo/Europe/Berlin")
        );
        assert_eq!(
            fs::read_to_string(file("etc/timezone")).unwrap(),
            "Europe/Berlin\n"
        );
    }

    #[test]
    fn zone_of_the_image_is_kept_unless_it_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let root = GuestRoot::at(directory.path()).unwrap();
        root.make_directory("/etc").unwrap();
        let link = directory.path().join("etc/localtime");
        symlink("/usr/share/zoneinfo/Asia/Tokyo", &link).unwrap();
        set(&root, &berlin(false), &[]).unwrap();
        assert!(fs::read_link(&link).unwrap().ends_with("Tokyo"));
        set(&root, &berlin(true), &[]).unwrap();
        assert_eq!(fs::read(&link).unwrap(), b"TZif2 berlin");

        fs::remove_file(&link).unwrap();
        set(&root, &berlin(false), &["TZ=UTC".to_owned()]).unwrap();
        assert!(!link.exists());
    }
}
