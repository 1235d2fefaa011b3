//! The user's groups on the host, as groups of the machine.
//!
//! The machine's kernel checks permissions in the shared home, so the user is a member of the same
//! groups there. Ids count; a group's name is only for display.

use std::io;

use container_protocol::GuestUser;

use super::{passwd::Group, root::GuestRoot};

/// Makes the user a member of all groups that the user has on the host. Nothing is removed.
pub(super) fn join(root: &GuestRoot, user: &GuestUser) -> io::Result<()> {
    // group(5) separates members by commas.
    if user.groups.is_empty() || user.username.contains([',', ':', '\n']) {
        return Ok(());
    }
    let before = root.read_or_empty("/etc/group")?;
    let after = with_member(&before, user);
    if after != before {
        root.make_directory("/etc")?;
        root.write("/etc/group", &after, 0o644)?;
    }
    Ok(())
}

/// Returns the text of group(5) with the user in all groups of the host.
fn with_member(text: &str, user: &GuestUser) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let mut names: Vec<String> = text
        .lines()
        .filter_map(Group::parse)
        .map(|group| group.name)
        .collect();
    let name = &user.username;
    for wanted in &user.groups {
        let existing = lines.iter_mut().find_map(|line| {
            let group = Group::parse(line)?;
            (group.gid == wanted.gid).then_some((line, group))
        });
        match existing {
            Some((_, group)) if group.members.contains(name) => {}
            Some((line, group)) => {
                if line.matches(':').count() < 3 {
                    line.push(':');
                }
                let separator = if group.members.is_empty() { "" } else { "," };
                *line = format!("{}{separator}{name}", line.trim_end_matches([',', ' ']));
            }
            None => {
                let group = free_name(wanted.name.as_deref(), wanted.gid, &names);
                lines.push(format!("{group}:x:{}:{name}", wanted.gid));
                names.push(group);
            }
        }
    }
    lines.join("\n") + "\n"
}

/// Returns the host's name of a group, or another one if the machine uses it for another group.
fn free_name(name: Option<&str>, gid: u32, taken: &[String]) -> String {
    match name.filter(|name| !name.contains([':', ',', '\n'])) {
        Some(name) if taken.iter().all(|other| other != name) => name.to_owned(),
        Some(name) => format!("{name}-{gid}"),
        None => format!("host-{gid}"),
    }
}

#[cfg(test)]
mod tests {
    use container_protocol::GuestGroup;

    use super::*;

    #[test]
    fn user_joins_groups_by_id() {
        let group = |gid, name: &str| GuestGroup {
            gid,
            name: Some(name.to_owned()),
        };
        let user = GuestUser {
            username: "ann".to_owned(),
            uid: 1000,
            gid: 1000,
            home: None,
            groups: vec![
                group(27, "sudo"),
                group(44, "tape"),
                group(999, "docker"),
                group(1500, "devs"),
                GuestGroup {
                    gid: 1501,
                    name: None,
                },
            ],
        };
        let before = "root:x:0:\nsudo:x:27:bob\nvideo:x:44:\ndocker:x:7:\n";
        let after = with_member(before, &user);
        assert_eq!(
            after,
            "root:x:0:\nsudo:x:27:bob,ann\nvideo:x:44:ann\ndocker:x:7:\ndocker-999:x:999:ann\n\
             devs:x:1500:ann\nhost-1501:x:1501:ann\n"
        );
        assert_eq!(with_member(&after, &user), after);
    }
}
