//! The guest's `passwd(5)` and `group(5)`.

use std::io;

use super::root::GuestRoot;

/// One line of `passwd(5)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PasswdEntry {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Home directory.
    pub home: String,
    /// Login shell; empty where the entry names none.
    pub shell: String,
}

impl PasswdEntry {
    /// Reads one line; none if it is a comment or malformed.
    pub fn parse(line: &str) -> Option<PasswdEntry> {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let home = fields.nth(1)?;
        let shell = fields.next().unwrap_or_default();
        Some(PasswdEntry {
            name: name.to_owned(),
            uid,
            gid,
            home: home.to_owned(),
            shell: shell.to_owned(),
        })
    }
}

/// One line of `group(5)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Group name.
    pub name: String,
    /// Group id.
    pub gid: u32,
    /// Login names of the members.
    pub members: Vec<String>,
}

impl Group {
    /// Reads one line; none if it is a comment or malformed.
    pub fn parse(line: &str) -> Option<Group> {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let gid = fields.nth(1)?.parse().ok()?;
        let members = fields.next().unwrap_or_default();
        Some(Group {
            name: name.to_owned(),
            gid,
            members: members
                .split(',')
                .filter(|member| !member.is_empty())
                .map(str::to_owned)
                .collect(),
        })
    }
}

/// The guest's users and groups, as they are now.
#[derive(Debug, Default)]
pub struct Passwd {
    users: Vec<PasswdEntry>,
    groups: Vec<Group>,
}

impl Passwd {
    /// Reads both files; a missing one counts as empty.
    pub fn read(root: &GuestRoot) -> io::Result<Passwd> {
        let users = root.read_or_empty("/etc/passwd")?;
        let groups = root.read_or_empty("/etc/group")?;
        Ok(Passwd {
            users: users.lines().filter_map(PasswdEntry::parse).collect(),
            groups: groups.lines().filter_map(Group::parse).collect(),
        })
    }

    /// The user of that name.
    pub fn by_name(&self, name: &str) -> Option<&PasswdEntry> {
        self.users.iter().find(|user| user.name == name)
    }

    /// The first user with that id.
    pub fn by_uid(&self, uid: u32) -> Option<&PasswdEntry> {
        self.users.iter().find(|user| user.uid == uid)
    }

    /// The ids of the groups that list `name` as a member.
    pub fn groups_of(&self, name: &str) -> Vec<u32> {
        let is_in = |group: &&Group| group.members.iter().any(|member| member == name);
        self.groups
            .iter()
            .filter(is_in)
            .map(|group| group.gid)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_and_broken_ones_passed_over() {
        let entry = PasswdEntry::parse("ann:x:1000:100:Ann,,,:/home/ann:/bin/zsh").unwrap();
        assert_eq!(
            (
                entry.uid,
                entry.gid,
                entry.home.as_str(),
                entry.shell.as_str()
            ),
            (1000, 100, "/home/ann", "/bin/zsh")
        );
        assert_eq!(PasswdEntry::parse("+::::::"), None);
        assert_eq!(PasswdEntry::parse("# comment"), None);
        assert_eq!(
            Group::parse("sudo:x:27:ann,bob").unwrap().members,
            ["ann", "bob"]
        );
        assert!(Group::parse("audio:x:29:").unwrap().members.is_empty());
    }
}
