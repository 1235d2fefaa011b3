//! Keeps the directories of the image's `PATH` in login shells, where `/etc/profile` replaces it.

use std::io;

use super::root::GuestRoot;
use crate::search_path::{self, OwnDirectories};

/// Script that login shells read last.
const SCRIPT: &str = "/etc/profile.d/zz-container.sh";

/// Start file of all login shells that follow the Bourne shell.
const PROFILE: &str = "/etc/profile";

/// Writes the script if the image's path has directories of its own, and removes it otherwise.
pub(super) fn write(root: &GuestRoot, image_environment: &[String]) -> io::Result<()> {
    let path = search_path::of_image(image_environment).unwrap_or_default();
    let own = search_path::own_directories(path);
    if own == OwnDirectories::default() {
        if root.exists(SCRIPT) {
            root.remove(SCRIPT)?;
        }
        return Ok(());
    }
    let Ok(profile) = root.read(PROFILE) else {
        // Without it, login shells keep the path that they get.
        return Ok(());
    };
    let script = script(&own);
    if root.read(SCRIPT).ok().as_deref() != Some(&script) {
        root.make_directory("/etc/profile.d")?;
        root.write(SCRIPT, &script, 0o644)?;
    }
    if profile.contains("profile.d") {
        return Ok(());
    }
    let end = if profile.ends_with('\n') { "" } else { "\n" };
    let line = format!("{end}[ ! -r {SCRIPT} ] || . {SCRIPT}\n");
    root.write(PROFILE, &(profile + &line), 0o644)
}

fn script(own: &OwnDirectories<'_>) -> String {
    let list = |directories: &mut dyn Iterator<Item = &&str>| -> String {
        directories
            .map(|directory| format!(" {}", quoted(directory)))
            .collect()
    };
    let before = list(&mut own.before.iter().rev());
    let after = list(&mut own.after.iter());
    format!(
        "\
# Written at each boot by the agent of the machine: the directories of the image's PATH.
for container_directory in{before}; do
    case \":$PATH:\" in
        *\":$container_directory:\"*) ;;
        *) PATH=\"$container_directory:$PATH\" ;;
    esac
done
for container_directory in{after}; do
    case \":$PATH:\" in
        *\":$container_directory:\"*) ;;
        *) PATH=\"$PATH:$container_directory\" ;;
    esac
done
unset container_directory
export PATH
"
    )
}

/// Returns a word that a shell reads as `text`.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Command};

    use super::*;

    #[test]
    fn login_shells_get_the_images_directories() {
        let directory = tempfile::tempdir().unwrap();
        let root = GuestRoot::at(directory.path()).unwrap();
        let environment = ["PATH=/o'ne:/two:/usr/bin:/three".to_owned()];
        write(&root, &environment).unwrap();
        assert!(!root.exists(SCRIPT), "no profile resets the path");

        fs::create_dir(directory.path().join("etc")).unwrap();
        fs::write(directory.path().join("etc/profile"), "PATH=/usr/bin").unwrap();
        write(&root, &environment).unwrap();
        write(&root, &environment).unwrap();
        let profile = root.read(PROFILE).unwrap();
        assert_eq!(profile.lines().count(), 2, "{profile}");
        let script = directory.path().join("etc/profile.d/zz-container.sh");
        for shell in ["sh", "bash"] {
            let line = format!(
                "PATH=/usr/bin:/bin; . {0}; . {0}; echo $PATH",
                script.display()
            );
            let printed = Command::new(shell).args(["-c", &line]).output().unwrap();
            let printed = String::from_utf8(printed.stdout).unwrap();
            assert_eq!(printed, "/o'ne:/two:/usr/bin:/bin:/three\n", "{shell}");
        }
        write(&root, &["PATH=/usr/bin:/bin".to_owned()]).unwrap();
        assert!(!root.exists(SCRIPT));
    }
}
