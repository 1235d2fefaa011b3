//! Environment variables of the user on whose behalf the library works.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

/// Environment variables of the caller. The library never reads those of its own process, because a
/// service works for a client that has another environment.
///
/// An empty value counts as unset. Values may be secrets, so `Debug` prints the names only.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Returns the value of a variable, or `None` when it is unset or empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let value = self.0.get(name).map(String::as_str);
        value.filter(|value| !value.is_empty())
    }

    /// Returns the value of a variable that holds a path, or `None` when the path is not absolute.
    pub(crate) fn path(&self, name: &str) -> Option<&Path> {
        self.get(name).map(Path::new).filter(|it| it.is_absolute())
    }

    /// Returns a path in the home directory, or `None` when `HOME` is not set.
    pub(crate) fn home_path(&self, path: &str) -> Option<PathBuf> {
        self.path("HOME").map(|home| home.join(path))
    }

    /// Returns the directory of the user's configuration files: `$XDG_CONFIG_HOME`, otherwise
    /// `~/.config`.
    pub(crate) fn config_directory(&self) -> Option<PathBuf> {
        let configured = self.path("XDG_CONFIG_HOME").map(Path::to_owned);
        configured.or_else(|| self.home_path(".config"))
    }

    /// Returns all variables, for the environment of a child process.
    pub(crate) fn variables(&self) -> &BTreeMap<String, String> {
        &self.0
    }
}

impl From<BTreeMap<String, String>> for Environment {
    fn from(variables: BTreeMap<String, String>) -> Environment {
        Environment(variables)
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}
