//! Directories of the shared home that a machine has for itself.

use std::{
    fmt,
    path::{Component, Path},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// The default: what works with one kernel or one set of services only. The host's container
/// storage has locks that the machine does not see, its user units would run twice, and a rootless
/// Docker has settings and a key of its own. VS Code's server finds the running one by a process id
/// in its directory, and is built for one C library.
const DEFAULT: [&str; 5] = [
    ".config/docker",
    ".config/systemd/user",
    ".local/share/containers",
    ".local/share/docker",
    ".vscode-server",
];

/// Directories of the shared home that a machine has for itself, on its disk. The paths are
/// relative to the home.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct PrivateHome(Vec<String>);

/// A list of private directories is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPrivateHome {
    /// The text is not the path of a directory in the home.
    #[error(
        "invalid private directory {0:?}: use a path relative to your home directory, such as .local/share/containers"
    )]
    Path(String),
    /// The directory is in another one.
    #[error("invalid private directory {0:?}: it is in another private directory")]
    Nested(String),
}

impl PrivateHome {
    /// Returns the paths of the directories, relative to the home.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().map(Path::new)
    }

    /// Whether this is the default list.
    pub fn is_default(&self) -> bool {
        *self == PrivateHome::default()
    }
}

impl Default for PrivateHome {
    fn default() -> PrivateHome {
        PrivateHome(DEFAULT.map(str::to_owned).into())
    }
}

impl TryFrom<Vec<String>> for PrivateHome {
    type Error = InvalidPrivateHome;

    fn try_from(paths: Vec<String>) -> Result<PrivateHome, InvalidPrivateHome> {
        let paths: Result<Vec<String>, InvalidPrivateHome> =
            paths.iter().map(|path| relative(path)).collect();
        let mut paths = paths?;
        paths.sort();
        paths.dedup();
        for path in &paths {
            let mut others = paths.iter().filter(|other| *other != path);
            if others.any(|other| Path::new(path).starts_with(other)) {
                return Err(InvalidPrivateHome::Nested(path.clone()));
            }
        }
        Ok(PrivateHome(paths))
    }
}

impl From<PrivateHome> for Vec<String> {
    fn from(private: PrivateHome) -> Vec<String> {
        private.0
    }
}

/// Paths separated by commas. An empty text is an empty list.
impl FromStr for PrivateHome {
    type Err = InvalidPrivateHome;

    fn from_str(text: &str) -> Result<PrivateHome, InvalidPrivateHome> {
        let paths = text.split(',').filter(|path| !path.is_empty());
        PrivateHome::try_from(paths.map(str::to_owned).collect::<Vec<String>>())
    }
}

impl fmt::Display for PrivateHome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0.join(","))
    }
}

/// Returns the path without `~/` before it and `/` after it.
fn relative(text: &str) -> Result<String, InvalidPrivateHome> {
    let path = Path::new(text.strip_prefix("~/").unwrap_or(text));
    let is_below = |component: Component<'_>| matches!(component, Component::Normal(_));
    let is_valid = path.components().next().is_some()
        && path.components().all(is_below)
        && !text.contains(['\0', '\n']);
    let path: std::path::PathBuf = path.components().collect();
    match path.into_os_string().into_string() {
        Ok(path) if is_valid => Ok(path),
        _ => Err(InvalidPrivateHome::Path(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_in_the_home() {
        let private: PrivateHome = "~/.cache/,.a/b".parse().unwrap();
        assert_eq!(private.to_string(), ".a/b,.cache");
        assert_eq!("".parse::<PrivateHome>().unwrap().paths().count(), 0);
        for invalid in ["/etc", "..", "a/../..", "~", "~/", ".", "a\nb"] {
            let parsed = invalid.parse::<PrivateHome>();
            assert_eq!(parsed.is_err(), invalid != "~", "{invalid}");
        }
        assert!(".cache,.cache/x".parse::<PrivateHome>().is_err());
        assert!(".cache,.cache-x".parse::<PrivateHome>().is_ok());
        assert!(PrivateHome::default().is_default());
        let json = serde_json::to_string(&private).unwrap();
        assert_eq!(json, r#"[".a/b",".cache"]"#);
        assert!(serde_json::from_str::<PrivateHome>(r#"["/x"]"#).is_err());
    }
}
