//! Checks of the host, which need no running service.

use serde::{Deserialize, Serialize};

/// Checks of everything that machines need on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnosis {
    /// One entry for each check.
    pub checks: Vec<Check>,
}

impl Diagnosis {
    /// Returns whether a check has found a problem.
    pub fn has_problem(&self) -> bool {
        let mut checks = self.checks.iter();
        checks.any(|check| check.status == CheckStatus::Problem)
    }
}

/// Result of one check. The fields are in alphabetical order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// What the user can do, mostly a command; absent if there is nothing to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
    /// What was found, as half a sentence.
    pub message: String,
    /// Name of the check.
    pub name: String,
    /// Whether machines work.
    pub status: CheckStatus,
}

/// Outcome of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CheckStatus {
    /// Everything is as it should be.
    Ok,
    /// Machines work, but less well than they could.
    Warning,
    /// Machines do not work, or may not.
    Problem,
}

impl Check {
    /// Creates a check that has found nothing wrong.
    pub fn ok(name: impl Into<String>, message: impl Into<String>) -> Check {
        Check {
            fix: None,
            message: message.into(),
            name: name.into(),
            status: CheckStatus::Ok,
        }
    }

    /// Creates a check with a warning.
    pub fn warning(name: impl Into<String>, message: impl Into<String>) -> Check {
        Check {
            status: CheckStatus::Warning,
            ..Check::ok(name, message)
        }
    }

    /// Creates a check that has found a problem.
    pub fn problem(name: impl Into<String>, message: impl Into<String>) -> Check {
        Check {
            status: CheckStatus::Problem,
            ..Check::ok(name, message)
        }
    }

    /// Adds what the user can do.
    #[must_use]
    pub fn with_fix(self, fix: impl Into<String>) -> Check {
        Check {
            fix: Some(fix.into()),
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_have_the_fields_of_the_wire_format() {
        let checks = vec![
            Check::ok("kernel", "Linux 6.1"),
            Check::problem("engine", "no QEMU").with_fix("install it"),
        ];
        let diagnosis = Diagnosis { checks };
        let json = r#"{"checks":[{"message":"Linux 6.1","name":"kernel","status":"ok"},{"fix":"install it","message":"no QEMU","name":"engine","status":"problem"}]}"#;
        assert_eq!(serde_json::to_string(&diagnosis).unwrap(), json);
        assert_eq!(serde_json::from_str::<Diagnosis>(json).unwrap(), diagnosis);
        assert!(diagnosis.has_problem());
    }
}
