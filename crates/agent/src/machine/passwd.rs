//! Reads the machine's `passwd(5)` and `group(5)`.

use std::io;

use super::root::GuestRoot;

/// One line of `passwd(5)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PasswdEntry {
    /// Login name.
    pub name: String,
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Home directory.
    pub home: String,
    /// Login shell; empty if the entry has none.
    pub shell: String,
}

impl PasswdEntry {
    /// Parses a line. Returns `None` for a comment or a malformed line.
    pub(crate) fn parse(line: &str) -> Option<PasswdEntry> {
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
pub(super) struct Group {
    pub name: String,
    pub gid: u32,
    /// Login names of the members.
    pub members: Vec<String>,
}

impl Group {
    /// Parses a line. Returns `None` for a comment or a malformed line.
    pub(super) fn parse(line: &str) -> Option<Group> {
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

/// The machine's users and groups at the time of reading.
#[derive(Debug, Default)]
pub(crate) struct Passwd {
    users: Vec<PasswdEntry>,
    groups: Vec<Group>,
}

impl Passwd {
    /// Reads both files. A missing one counts as empty.
    pub(crate) fn read(root: &GuestRoot) -> io::Result<Passwd> {
        let users = root.read_or_empty("/etc/passwd")?;
        let groups = root.read_or_empty("/etc/group")?;
        Ok(Passwd {
            users: users.lines().filter_map(PasswdEntry::parse).collect(),
            groups: groups.lines().filter_map(Group::parse).collect(),
        })
    }

    /// Returns the first user with this name.
    pub(crate) fn by_name(&self, name: &str) -> Option<&PasswdEntry> {
        self.users.iter().find(|user| user.name == name)
    }

    /// Returns the first user with this id.
    pub(crate) fn by_uid(&self, uid: u32) -> Option<&PasswdEntry> {
        self.users.iter().find(|user| user.uid == uid)
    }

    /// Returns the id of the first group with this name.
    pub(crate) fn group(&self, name: &str) -> Option<u32> {
        let found = self.groups.iter().find(|group| group.name == name);
        found.map(|group| group.gid)
    }

    /// Returns the names of the groups with this id.
    pub(crate) fn names_of_group(&self, gid: u32) -> impl Iterator<Item = &str> {
        let same = self.groups.iter().filter(move |group| group.gid == gid);
        same.map(|group| group.name.as_str())
    }

    /// Returns the ids of the groups that list `name` as a member.
    pub(crate) fn groups_of(&self, name: &str) -> Vec<u32> {
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
    fn parse_reads_entries_and_skips_malformed_lines() {
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
