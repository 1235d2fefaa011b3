//! Resource limits of a command: systemd's defaults, `limits.conf(5)`, and a minimum of open files.
//!
//! Commands start without PAM and without systemd, so both files are read here.

use std::{collections::BTreeMap, io};

use container_protocol::InitProgram;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, rlim_t, setrlimit};

use crate::{machine::GuestRoot, open_files};

/// Soft limit on open files, unless the machine has a higher one. Above it `select(2)` does not
/// work; programs that need more raise it up to the hard one.
const SOFT_OPEN_FILES: rlim_t = 1024;

/// Hard limit on open files.
const HARD_OPEN_FILES: rlim_t = 1 << 20;

/// Minimum of a hard limit on open files that the machine has: systemd's default.
const MIN_HARD_OPEN_FILES: rlim_t = 524_288;

/// A limit: its names in limits.conf and, after `DefaultLimit`, in systemd's settings, and the unit
/// of limits.conf.
struct Kind {
    resource: Resource,
    item: &'static str,
    setting: &'static str,
    unit: rlim_t,
}

const fn kind(resource: Resource, item: &'static str, setting: &'static str, unit: rlim_t) -> Kind {
    Kind {
        resource,
        item,
        setting,
        unit,
    }
}

const KINDS: [Kind; 15] = [
    kind(Resource::RLIMIT_AS, "as", "AS", 1024),
    kind(Resource::RLIMIT_CORE, "core", "CORE", 1024),
    kind(Resource::RLIMIT_CPU, "cpu", "CPU", 60),
    kind(Resource::RLIMIT_DATA, "data", "DATA", 1024),
    kind(Resource::RLIMIT_FSIZE, "fsize", "FSIZE", 1024),
    kind(Resource::RLIMIT_LOCKS, "locks", "LOCKS", 1),
    kind(Resource::RLIMIT_MEMLOCK, "memlock", "MEMLOCK", 1024),
    kind(Resource::RLIMIT_MSGQUEUE, "msgqueue", "MSGQUEUE", 1),
    kind(Resource::RLIMIT_NICE, "nice", "NICE", 1),
    kind(Resource::RLIMIT_NOFILE, "nofile", "NOFILE", 1),
    kind(Resource::RLIMIT_NPROC, "nproc", "NPROC", 1),
    kind(Resource::RLIMIT_RSS, "rss", "RSS", 1024),
    kind(Resource::RLIMIT_RTPRIO, "rtprio", "RTPRIO", 1),
    kind(Resource::RLIMIT_SIGPENDING, "sigpending", "SIGPENDING", 1),
    kind(Resource::RLIMIT_STACK, "stack", "STACK", 1024),
];

/// User that limits apply to.
#[derive(Debug, Clone, Copy)]
pub(super) struct LimitedUser<'a> {
    pub name: &'a str,
    pub uid: u32,
    /// Ids and names of all groups.
    pub groups: &'a [(u32, String)],
}

/// A soft or hard limit that a file sets; the other one is absent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Pair {
    soft: Option<rlim_t>,
    hard: Option<rlim_t>,
}

/// Limits of a command. The default sets none.
#[derive(Debug, Default)]
pub(super) struct Limits {
    values: Vec<(Resource, rlim_t, rlim_t)>,
}

impl Limits {
    /// Returns the limits of `user`.
    pub(super) fn new(root: &GuestRoot, init: &InitProgram, user: LimitedUser<'_>) -> Limits {
        let mut pairs = BTreeMap::new();
        if matches!(init, InitProgram::OfImage(program) if program.ends_with("/systemd")) {
            for text in systemd_settings(root) {
                add_systemd_settings(&mut pairs, &text);
            }
        }
        let mut of_files = OfFiles::default();
        for text in limits_files(root) {
            of_files.add(&text, user);
        }
        of_files.override_in(&mut pairs);
        Limits {
            values: KINDS
                .iter()
                .filter_map(|kind| resolve(kind, pairs.get(kind.item).copied()))
                .collect(),
        }
    }

    /// Sets the limits of this process. Makes only system calls. A limit that the kernel refuses
    /// stays as it is.
    pub(super) fn apply(&self) {
        for (resource, soft, hard) in &self.values {
            let _ = setrlimit(*resource, *soft, *hard);
        }
    }
}

/// Returns the soft and hard limit to set. Returns nothing for one that stays as it is.
fn resolve(kind: &Kind, pair: Option<Pair>) -> Option<(Resource, rlim_t, rlim_t)> {
    let is_open_files = kind.resource == Resource::RLIMIT_NOFILE;
    if pair.is_none() && !is_open_files {
        return None;
    }
    let pair = pair.unwrap_or_default();
    let inherited = if is_open_files {
        (SOFT_OPEN_FILES, HARD_OPEN_FILES)
    } else {
        getrlimit(kind.resource).ok()?
    };
    let mut hard = pair.hard.unwrap_or(inherited.1);
    let mut soft = pair.soft.unwrap_or(inherited.0);
    if is_open_files {
        hard = hard.max(MIN_HARD_OPEN_FILES).min(open_files::maximum());
        soft = soft.max(SOFT_OPEN_FILES);
    }
    Some((kind.resource, soft.min(hard), hard))
}

/// Returns the texts of systemd's settings, later ones taking precedence (systemd-system.conf(5)).
fn systemd_settings(root: &GuestRoot) -> Vec<String> {
    let mut files = vec![
        "/usr/lib/systemd/system.conf".to_owned(),
        "/etc/systemd/system.conf".to_owned(),
    ];
    let mut drop_ins = BTreeMap::new();
    for directory in ["/usr/lib/systemd", "/usr/local/lib/systemd", "/etc/systemd"] {
        let directory = format!("{directory}/system.conf.d");
        for name in configurations(root, &directory).unwrap_or_default() {
            let path = format!("{directory}/{name}");
            drop_ins.insert(name, path);
        }
    }
    files.extend(drop_ins.into_values());
    files
        .iter()
        .filter_map(|file| root.read(file).ok())
        .collect()
}

/// Returns the texts of limits.conf and its drop-ins, in pam_limits' order.
fn limits_files(root: &GuestRoot) -> Vec<String> {
    let directory = "/etc/security/limits.d";
    let drop_ins = configurations(root, directory).unwrap_or_default();
    let drop_ins = drop_ins.iter().map(|name| format!("{directory}/{name}"));
    std::iter::once("/etc/security/limits.conf".to_owned())
        .chain(drop_ins)
        .filter_map(|file| root.read(&file).ok())
        .collect()
}

fn configurations(root: &GuestRoot, directory: &str) -> io::Result<Vec<String>> {
    let mut names = root.entries(directory)?;
    names.retain(|name| name.ends_with(".conf"));
    Ok(names)
}

/// Adds `DefaultLimitX=VALUE` or `DefaultLimitX=SOFT:HARD` lines.
fn add_systemd_settings(pairs: &mut BTreeMap<&'static str, Pair>, text: &str) {
    for line in text.lines() {
        let Some((name, value)) = line
            .trim()
            .strip_prefix("DefaultLimit")
            .and_then(|line| line.split_once('='))
        else {
            continue;
        };
        let Some(kind) = KINDS.iter().find(|kind| kind.setting == name.trim()) else {
            continue;
        };
        let (soft, hard) = value.split_once(':').unwrap_or((value, value));
        if let (Some(soft), Some(hard)) = (systemd_value(soft), systemd_value(hard)) {
            let pair = Pair {
                soft: Some(soft),
                hard: Some(hard),
            };
            pairs.insert(kind.item, pair);
        }
    }
}

/// Parses a number with an optional binary suffix, or `infinity`.
fn systemd_value(text: &str) -> Option<rlim_t> {
    let text = text.trim();
    if text == "infinity" {
        return Some(RLIM_INFINITY);
    }
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let factor: rlim_t = match &text[digits.len()..] {
        "" | "B" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        "T" => 1 << 40,
        _ => return None,
    };
    digits.trim().parse::<rlim_t>().ok()?.checked_mul(factor)
}

/// How closely a line's domain names the user, from the least (pam_limits(8)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Match {
    Everyone,
    Group,
    User,
}

/// Limits of limits.conf, with the match of the line that each comes from.
#[derive(Debug, Default)]
struct OfFiles {
    limits: BTreeMap<(&'static str, bool), (Match, rlim_t)>,
}

impl OfFiles {
    /// Adds the lines that apply to the user: `DOMAIN TYPE ITEM VALUE`. A closer match takes
    /// precedence, then the later line.
    fn add(&mut self, text: &str, user: LimitedUser<'_>) {
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default();
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [domain, bound, item, value] = fields[..] else {
                continue;
            };
            let Some(found) = matching(domain, user) else {
                continue;
            };
            let kind = KINDS.iter().find(|kind| kind.item == item);
            let Some((kind, value)) = kind.and_then(|kind| Some((kind, limit(kind, value)?)))
            else {
                continue;
            };
            for is_hard in [false, true] {
                if bound == "-" || (bound == "hard") == is_hard && ["soft", "hard"].contains(&bound)
                {
                    let limit = self
                        .limits
                        .entry((kind.item, is_hard))
                        .or_insert((found, value));
                    if found >= limit.0 {
                        *limit = (found, value);
                    }
                }
            }
        }
    }

    fn override_in(&self, pairs: &mut BTreeMap<&'static str, Pair>) {
        for (&(item, is_hard), &(_, value)) in &self.limits {
            let pair = pairs.entry(item).or_default();
            let limit = if is_hard {
                &mut pair.hard
            } else {
                &mut pair.soft
            };
            *limit = Some(value);
        }
    }
}

/// Returns how the domain of a line matches the user. Groups, ranges and `*` never match root.
fn matching(domain: &str, user: LimitedUser<'_>) -> Option<Match> {
    if domain == user.name {
        return Some(Match::User);
    }
    if user.uid == 0 {
        return None;
    }
    if domain == "*" {
        return Some(Match::Everyone);
    }
    match domain.strip_prefix('@') {
        Some(group) => {
            let is_in = |(gid, name): &(u32, String)| name == group || is_in_range(*gid, group);
            user.groups.iter().any(is_in).then_some(Match::Group)
        }
        None => is_in_range(user.uid, domain).then_some(Match::User),
    }
}

/// Returns whether the id is in a range `MIN:MAX`, `MIN:` or `:ID`, which is only that id.
fn is_in_range(id: u32, range: &str) -> bool {
    let Some((min, max)) = range.split_once(':') else {
        return false;
    };
    match (min.parse::<u32>(), max.parse::<u32>()) {
        (Ok(min), Ok(max)) => (min..=max).contains(&id),
        (Ok(min), Err(_)) => max.is_empty() && id >= min,
        (Err(_), Ok(only)) => min.is_empty() && id == only,
        (Err(_), Err(_)) => false,
    }
}

/// Parses a value of limits.conf.
fn limit(kind: &Kind, value: &str) -> Option<rlim_t> {
    if ["unlimited", "infinity", "-1"].contains(&value) {
        return Some(RLIM_INFINITY);
    }
    if kind.resource == Resource::RLIMIT_NICE {
        // The kernel counts from 1 for 19 to 40 for -20 (getrlimit(2)).
        let nice: i32 = value.parse().ok()?;
        return rlim_t::try_from(20 - nice.clamp(-20, 19)).ok();
    }
    value.parse::<rlim_t>().ok()?.checked_mul(kind.unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_lines(text: &str, uid: u32) -> BTreeMap<&'static str, Pair> {
        let groups = [(50, "staff".to_owned())];
        let user = LimitedUser {
            name: if uid == 0 { "root" } else { "ada" },
            uid,
            groups: &groups,
        };
        let mut of_files = OfFiles::default();
        of_files.add(text, user);
        let mut pairs = BTreeMap::new();
        of_files.override_in(&mut pairs);
        pairs
    }

    fn pair(soft: rlim_t, hard: rlim_t) -> Option<Pair> {
        Some(Pair {
            soft: Some(soft),
            hard: Some(hard),
        })
    }

    #[test]
    fn closer_lines_take_precedence() {
        let text = "\
ada soft nproc 7 # comment
* - nproc 9
@staff hard nproc 8
* - memlock 64
* - memlock 128
root - core 0
1000:2000 - stack unlimited
:1000 soft nice -5
other - core 1
%staff - maxlogins 3
* - nofile
";
        let pairs = of_lines(text, 1000);
        assert_eq!(pairs.get("nproc").copied(), pair(7, 8));
        assert_eq!(pairs.get("memlock").copied(), pair(128 << 10, 128 << 10));
        assert_eq!(
            pairs.get("stack").copied(),
            pair(RLIM_INFINITY, RLIM_INFINITY)
        );
        assert_eq!(pairs["nice"].soft, Some(25));
        assert!(!pairs.contains_key("core") && !pairs.contains_key("nofile"));
        let root = of_lines(text, 0);
        assert_eq!(root.keys().copied().collect::<Vec<_>>(), ["core"]);
    }

    #[test]
    fn settings_of_systemd_are_read() {
        let mut pairs = BTreeMap::new();
        let text = "[Manager]\n#DefaultLimitNOFILE=9\nDefaultLimitNOFILE=2048:1M\nDefaultLimitCORE=infinity\nDefaultLimitCPU=1min\n";
        add_systemd_settings(&mut pairs, text);
        assert_eq!(pairs.get("nofile").copied(), pair(2048, 1 << 20));
        assert_eq!(
            pairs.get("core").copied(),
            pair(RLIM_INFINITY, RLIM_INFINITY)
        );
        assert_eq!(pairs.len(), 2);
    }

    #[test]
    fn open_files_have_a_minimum() {
        let open_files = KINDS.iter().find(|kind| kind.item == "nofile").unwrap();
        let low = resolve(open_files, pair(10, 20)).unwrap();
        assert!(low.1 >= 1024 && low.2 >= MIN_HARD_OPEN_FILES.min(open_files::maximum()));
        let (_, soft, hard) = resolve(open_files, None).unwrap();
        assert_eq!(
            (soft, hard),
            (1024, HARD_OPEN_FILES.min(open_files::maximum()))
        );
    }
}
