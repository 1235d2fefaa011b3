//! `container machine list --filter`

use std::str::FromStr;

use container_api::{MachineState, Status};
use wildmatch::WildMatch;

use crate::{
    filter::{Filter, image_names},
    values::InvalidValue,
};

/// One `KEY=VALUE` of `list --filter`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum MachineFilter {
    /// Pattern for the id; `*` matches any text.
    Id(WildMatch),
    /// Pattern for one of the image's names.
    Image(WildMatch),
    /// State of the machine.
    Status(Status),
    /// Whether it is the default machine.
    Default(bool),
}

impl FromStr for MachineFilter {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<MachineFilter, InvalidValue> {
        let Some((key, value)) = text.split_once('=') else {
            return Err(InvalidValue::new("not of the form KEY=VALUE"));
        };
        match key {
            "id" | "name" => Ok(MachineFilter::Id(WildMatch::new(value))),
            "image" => Ok(MachineFilter::Image(WildMatch::new(value))),
            "status" => match value {
                "running" => Ok(MachineFilter::Status(Status::Running)),
                "starting" => Ok(MachineFilter::Status(Status::Starting)),
                "paused" => Ok(MachineFilter::Status(Status::Paused)),
                "unresponsive" => Ok(MachineFilter::Status(Status::Unresponsive)),
                "suspended" => Ok(MachineFilter::Status(Status::Suspended)),
                "stopped" => Ok(MachineFilter::Status(Status::Stopped)),
                _ => Err(InvalidValue::new(format!(
                    "invalid status {value:?} (available: running, starting, paused, unresponsive, suspended, stopped)"
                ))),
            },
            "default" => match value.parse() {
                Ok(is_default) => Ok(MachineFilter::Default(is_default)),
                Err(_) => Err(InvalidValue::new(format!(
                    "{value:?} is neither true nor false"
                ))),
            },
            _ => Err(InvalidValue::new(format!(
                "key {key:?} not found (available: id, name, image, status, default)"
            ))),
        }
    }
}

impl Filter<MachineState> for MachineFilter {
    fn matches(&self, machine: &MachineState) -> bool {
        match self {
            MachineFilter::Id(pattern) => pattern.matches(machine.id.as_str()),
            MachineFilter::Image(pattern) => {
                let mut names = image_names(&machine.image.reference);
                names.any(|name| pattern.matches(name))
            }
            MachineFilter::Status(status) => *status == machine.status,
            MachineFilter::Default(is_default) => *is_default == machine.default,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{filter::matches_all, tests::samples};

    fn matching(words: &[&str]) -> Vec<String> {
        let filters: Vec<MachineFilter> = words.iter().map(|word| word.parse().unwrap()).collect();
        let machines = samples::machines().into_iter();
        let matching = machines.filter(|machine| matches_all(&filters, machine));
        matching.map(|machine| machine.id.to_string()).collect()
    }

    #[test]
    fn filters_select_machines() {
        assert_eq!(matching(&[]), ["dev", "web-1", "web-2"]);
        assert_eq!(matching(&["id=web-*"]), ["web-1", "web-2"]);
        assert_eq!(matching(&["name=dev"]), ["dev"]);
        assert_eq!(matching(&["name=de"]), [""; 0]);
        assert_eq!(matching(&["id=dev", "name=web-2"]), ["dev", "web-2"]);
        assert_eq!(matching(&["status=stopped"]), ["web-1"]);
        assert_eq!(matching(&["status=running", "id=web-*"]), [""; 0]);
        assert_eq!(matching(&["default=true"]), ["dev"]);
        assert_eq!(matching(&["default=false"]), ["web-1", "web-2"]);
    }

    #[test]
    fn an_image_is_matched_by_any_of_its_names() {
        for word in [
            "debian",
            "debian:12",
            "machines/debian",
            "127.0.0.1:5000/*",
            "*:12",
        ] {
            assert_eq!(matching(&[&format!("image={word}")]), ["dev"], "{word}");
        }
        assert_eq!(matching(&["image=debian:1"]), [""; 0]);
        assert_eq!(matching(&["image=bian"]), [""; 0]);
        assert_eq!(matching(&["image=alpine"]), ["web-1", "web-2"]);
    }

    #[test]
    fn errors_list_the_valid_values() {
        let error = |word: &str| word.parse::<MachineFilter>().unwrap_err().to_string();
        assert!(error("nmae=x").contains("id, name, image, status, default"));
        assert!(error("status=up").contains("paused, unresponsive, suspended, stopped"));
        assert!(error("default=yes").contains("true nor false"));
        assert!(error("dev").contains("KEY=VALUE"));
    }
}
