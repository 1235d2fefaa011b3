//! Idle time after which a machine is suspended.

use std::{fmt, str::FromStr, time::Duration};

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

/// The word for machines that are never suspended by themselves.
const OFF: &str = "off";

/// Idle time after which a machine is suspended, or never.
///
/// ```
/// use container_machine::IdleSuspend;
///
/// let idle: IdleSuspend = "1h30m".parse().unwrap();
/// assert_eq!(idle.after().unwrap().as_secs(), 5400);
/// assert_eq!(IdleSuspend::default().to_string(), "off");
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IdleSuspend(Option<Duration>);

/// The text is not an idle time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid idle time {0:?}: use a time of at least one second, such as 30m or 2h, or off")]
pub struct InvalidIdleSuspend(String);

impl IdleSuspend {
    /// Returns the idle time; absent if the machine is never suspended by itself.
    pub fn after(self) -> Option<Duration> {
        self.0
    }

    /// Whether the machine is never suspended by itself.
    pub fn is_off(&self) -> bool {
        self.0.is_none()
    }
}

impl FromStr for IdleSuspend {
    type Err = InvalidIdleSuspend;

    fn from_str(text: &str) -> Result<IdleSuspend, InvalidIdleSuspend> {
        if text == OFF {
            return Ok(IdleSuspend(None));
        }
        let time: Option<SignedDuration> = text.parse().ok();
        let seconds = time.and_then(|time| u64::try_from(time.as_secs()).ok());
        match seconds {
            Some(seconds @ 1..) => Ok(IdleSuspend(Some(Duration::from_secs(seconds)))),
            _ => Err(InvalidIdleSuspend(text.to_owned())),
        }
    }
}

impl fmt::Display for IdleSuspend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(after) = self.0 else {
            return f.write_str(OFF);
        };
        let after = SignedDuration::try_from(after).unwrap_or(SignedDuration::MAX);
        write!(f, "{after:#}")
    }
}

impl TryFrom<String> for IdleSuspend {
    type Error = InvalidIdleSuspend;

    fn try_from(text: String) -> Result<IdleSuspend, InvalidIdleSuspend> {
        text.parse()
    }
}

impl From<IdleSuspend> for String {
    fn from(idle: IdleSuspend) -> String {
        idle.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_time_is_written_as_it_is_read() {
        for (text, seconds, written) in [
            ("30m", Some(1800), "30m"),
            ("90s", Some(90), "1m 30s"),
            ("1h 30m", Some(5400), "1h 30m"),
            ("2h30m", Some(9000), "2h 30m"),
            ("off", None, "off"),
        ] {
            let idle: IdleSuspend = text.parse().unwrap();
            assert_eq!(idle.after().map(|after| after.as_secs()), seconds);
            assert_eq!(idle.to_string(), written);
            assert_eq!(written.parse(), Ok(idle));
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "0", "30", "0s", "500ms", "-5m", "1y", "on", "never"] {
            let error = text.parse::<IdleSuspend>().unwrap_err();
            assert!(error.to_string().contains("30m"), "{text}: {error}");
        }
    }
}
