//! The environment of whoever wants an image.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

/// The variables of whoever wants an image; those of this process do not count. Empty values
/// count as none. They may hold secrets, so `Debug` shows names only.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// The value of a variable.
    pub fn get(&self, name: &str) -> Option<&str> {
        let value = self.0.get(name).map(String::as_str);
        value.filter(|value| !value.is_empty())
    }

    /// The value of a variable that names a file or directory, if it is an absolute path.
    pub fn path(&self, name: &str) -> Option<&Path> {
        self.get(name).map(Path::new).filter(|it| it.is_absolute())
    }

    /// A path below the home directory.
    pub fn below_home(&self, path: &str) -> Option<PathBuf> {
        self.path("HOME").map(|home| home.join(path))
    }

    /// All variables, by name.
    pub fn variables(&self) -> &BTreeMap<String, String> {
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
