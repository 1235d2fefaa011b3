//! The caller's time zone, in a form that the machine understands.

use crate::machine::GuestRoot;

/// The machine's time zones.
const ZONES: &str = "/usr/share/zoneinfo";

/// Returns the value of `TZ` for a command: the caller's if the machine knows that zone, else its
/// `rule`, which needs no database. Returns nothing if there is neither.
pub(super) fn adapt(root: &GuestRoot, zone: &str, rule: Option<&str>) -> Option<String> {
    let name = zone.strip_prefix(':').unwrap_or(zone);
    let is_known = if name.starts_with('/') {
        root.exists(name)
    } else {
        // An empty zone is UTC (tzset(3)).
        name.is_empty() || is_rule(name) || root.exists(&format!("{ZONES}/{name}"))
    };
    if is_known {
        Some(zone.to_owned())
    } else {
        rule.map(str::to_owned)
    }
}

/// Returns whether this is a rule as in tzset(3): a name of letters or in angle brackets, and the
/// offset of its time.
fn is_rule(zone: &str) -> bool {
    let offset = match zone.strip_prefix('<') {
        Some(quoted) => quoted.split_once('>').map(|(_, offset)| offset),
        None => {
            let offset = zone.trim_start_matches(|letter: char| letter.is_ascii_alphabetic());
            (zone.len() - offset.len() >= 3).then_some(offset)
        }
    };
    let digits = offset.map(|offset| offset.strip_prefix(['+', '-']).unwrap_or(offset));
    digits.is_some_and(|digits| digits.starts_with(|letter: char| letter.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_and_names_are_distinguished() {
        for rule in [
            "JST-9",
            "UTC0",
            "<+0330>-3:30",
            "CET-1CEST,M3.5.0,M10.5.0/3",
        ] {
            assert!(is_rule(rule), "{rule}");
        }
        for name in ["Asia/Tokyo", "UTC", "", "<x", "Etc/GMT+5"] {
            assert!(!is_rule(name), "{name}");
        }
    }
}
