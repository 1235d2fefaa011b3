//! Directories of the host that a machine mounts, as the user writes them.

use std::{
    env,
    path::{Path, PathBuf},
};

use container_api::{MountChange, RemovedMounts};
use container_machine::{InvalidMount, Mount, MountPath, RequestedMount, RequestedTarget};

use crate::failure::Failure;

/// Returns the change that adds mounts; nothing without any.
pub(super) fn added(requested: &[RequestedMount]) -> Result<Option<MountChange>, Failure> {
    if requested.is_empty() {
        return Ok(None);
    }
    let here = here()?;
    let add: Result<Vec<Mount>, InvalidMount> =
        requested.iter().map(|it| it.resolve(&here)).collect();
    Ok(Some(MountChange {
        add: add.map_err(|error| Failure::new(error.to_string()))?,
        ..MountChange::default()
    }))
}

/// Adds the setting `mount=VALUE`, `mount+=VALUE` or `mount-=VALUE` to a change.
pub(super) fn change(change: &mut MountChange, key: &str, value: &str) -> Result<(), Failure> {
    let here = here()?;
    let words = value.split(',').filter(|word| !word.is_empty());
    if key == "mount-" {
        let targets: Result<Vec<MountPath>, _> = words.map(|word| target(word, &here)).collect();
        return remove(change, targets?);
    }
    let mounts: Result<Vec<Mount>, InvalidMount> = words
        .map(|word| word.parse::<RequestedMount>()?.resolve(&here))
        .collect();
    let mounts = mounts.map_err(|error| Failure::new(error.to_string()))?;
    if key == "mount" {
        change.remove = RemovedMounts::All;
    } else if mounts.is_empty() {
        return Err(Failure::new("name a directory to mount"));
    }
    change.add.extend(mounts);
    Ok(())
}

/// Returns the target of a mount to remove: a path in the machine, or what added the mount.
fn target(word: &str, here: &Path) -> Result<MountPath, Failure> {
    if word.contains(':') {
        let mount: Result<RequestedMount, InvalidMount> = word.parse();
        let mount = mount.and_then(|mount| mount.resolve(here));
        let mount = mount.map_err(|error| Failure::new(error.to_string()))?;
        return Ok(mount.target);
    }
    let target = RequestedTarget::from(word).resolve(here);
    target.map_err(|error| Failure::new(error.to_string()))
}

fn remove(change: &mut MountChange, targets: Vec<MountPath>) -> Result<(), Failure> {
    if targets.is_empty() {
        return Err(Failure::new(
            "name the path of a mount in the machine (to remove all: mount=)",
        ));
    }
    // `mount=` removes them anyway.
    if let RemovedMounts::At(removed) = &mut change.remove {
        removed.extend(targets);
    }
    Ok(())
}

fn here() -> Result<PathBuf, Failure> {
    env::current_dir().map_err(Failure::cannot("find the current directory"))
}
