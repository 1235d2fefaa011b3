//! `PATH` of commands: the image's, the machine's and the standard directories.

use crate::paths::SEARCH_PATH;

/// Returns the value of `PATH` in an image's environment (`NAME=value`).
pub(crate) fn of_image(environment: &[String]) -> Option<&str> {
    let values = environment.iter().filter_map(|pair| pair.split_once('='));
    values
        .filter(|(name, _)| *name == "PATH")
        .map(|(_, value)| value)
        .next_back()
}

/// Returns the directories of all paths, in order and once each. The standard ones come last.
///
/// An image whose path has only standard directories has none of its own: builders write that path
/// into every image.
pub(crate) fn merged(image: Option<&str>, machine: Option<&str>) -> String {
    let image = image.filter(|path| directories(path).any(|directory| !is_standard(directory)));
    let all = [image, machine, Some(SEARCH_PATH)];
    let mut merged: Vec<&str> = Vec::new();
    for directory in all.into_iter().flatten().flat_map(directories) {
        if !merged.contains(&directory) {
            merged.push(directory);
        }
    }
    merged.join(":")
}

/// An image's own directories, by their position relative to the standard ones.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct OwnDirectories<'a> {
    /// Searched before the standard directories.
    pub before: Vec<&'a str>,
    /// Searched after them.
    pub after: Vec<&'a str>,
}

/// Returns the directories of an image's path that are not standard.
pub(crate) fn own_directories(path: &str) -> OwnDirectories<'_> {
    let mut own = OwnDirectories::default();
    let mut list = &mut own.before;
    for directory in directories(path) {
        if is_standard(directory) {
            list = &mut own.after;
        } else {
            list.push(directory);
        }
    }
    own
}

/// Returns the directories of a path. An empty one, which is the current directory, is left out.
fn directories(path: &str) -> impl Iterator<Item = &str> {
    path.split(':').filter(|directory| !directory.is_empty())
}

fn is_standard(directory: &str) -> bool {
    directories(SEARCH_PATH).any(|standard| standard == directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_comes_first_and_standard_directories_are_never_missing() {
        assert_eq!(merged(None, None), SEARCH_PATH);
        let docker = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let ubuntu = format!("{docker}:/usr/games");
        assert_eq!(merged(Some(docker), Some(&ubuntu)), ubuntu);
        assert_eq!(
            merged(Some("/opt/tool/bin:/usr/bin:/bin"), None),
            "/opt/tool/bin:/usr/bin:/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/sbin"
        );
        let own = merged(Some("/go/bin::/bin"), Some("/opt/x:/bin"));
        assert!(
            own.starts_with("/go/bin:/bin:/opt/x:/usr/local/sbin:"),
            "{own}"
        );
    }

    #[test]
    fn own_directories_keep_their_position() {
        let own = own_directories("/a:/b:/usr/bin:/c:/bin:/d");
        assert_eq!(
            (own.before, own.after),
            (vec!["/a", "/b"], vec!["/c", "/d"])
        );
        assert_eq!(own_directories(SEARCH_PATH), OwnDirectories::default());
    }

    #[test]
    fn the_last_path_of_an_image_counts() {
        let environment = ["PATH=/a", "HOME=/x", "PATH=/b"].map(str::to_owned);
        assert_eq!(of_image(&environment), Some("/b"));
    }
}
