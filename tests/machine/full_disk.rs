//! A host whose disk is full: machines wait for space, and lose nothing.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
    process::{Command, Stdio},
};

use end_to_end::{Lab, Outcome, World, eventually};
use tempfile::TempDir;

crate::declare::tests![machine_waits_for_space_on_the_host];

/// A file system in memory. It is unmounted on drop.
pub(crate) struct SmallFileSystem(TempDir);

impl SmallFileSystem {
    /// Mounts a file system of this size, in the form of mount(8).
    pub(crate) fn mount(size: &str) -> SmallFileSystem {
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "small"])
            .arg(directory.path())
            .status();
        assert!(mounted.unwrap().success());
        SmallFileSystem(directory)
    }

    /// Returns a world whose machines are on this file system.
    pub(crate) fn world(&self) -> World {
        let world = World::for_root();
        fs::remove_dir(world.path("data")).unwrap();
        std::os::unix::fs::symlink(self.0.path(), world.path("data")).unwrap();
        world
    }

    /// Writes until nothing more fits. Returns the file to remove.
    pub(crate) fn fill(&self) -> impl AsRef<Path> + use<> {
        let path = self.0.path().join("filler");
        let mut file = File::create(&path).unwrap();
        let full = loop {
            // Whole pages, so that nothing is left of the last one.
            if let Err(error) = file.write_all(&[1; 4096]) {
                break error;
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        path
    }
}

impl Drop for SmallFileSystem {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

fn is_paused(world: &World) -> bool {
    world.inspect("dev")["status"] == "paused"
}

/// Starts to write more than fits.
fn write(world: &World) -> impl FnOnce() -> Outcome + use<> {
    let line = "dd if=/dev/urandom of=/data bs=1M count=24 2> /dev/null && sync && echo written";
    let mut command = world.machine(&["run", "-n", "dev", line]);
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let writer = command.spawn().unwrap();
    || writer.wait_with_output().unwrap().into()
}

fn machine_waits_for_space_on_the_host(lab: &Lab) {
    let small = SmallFileSystem::mount("512m");
    let world = small.world();
    let image = lab.image("busybox:1");
    world.create(&image, "dev", &["--home-mount", "none"]);

    let filler = small.fill();
    let written = write(&world);
    eventually("the machine is paused", || is_paused(&world));
    assert_eq!(
        world.inspect("dev")["pauseReason"],
        "No space left on device"
    );
    assert!(world.stdout(&["ls"]).contains("paused"));
    let paused = world.stdout(&["ls", "-q", "--filter", "status=paused"]);
    assert_eq!(paused, "dev\n");
    let error = world.error(&["stop", "dev"]);
    assert!(
        error.contains("No space left on device")
            && error.contains("container machine stop --force dev"),
        "{error}"
    );
    let mut other = world.machine(&["run", "-n", "dev", "echo served"]);
    let other = other.stdout(Stdio::piped()).stderr(Stdio::piped());
    let other = other.spawn().unwrap();
    assert!(is_paused(&world));
    fs::remove_file(&filler).unwrap();
    let written = written();
    assert_eq!(written.stdout, "written\n", "{written:?}");
    let other = Outcome::from(other.wait_with_output().unwrap());
    assert_eq!(other.stdout, "served\n", "{other:?}");
    assert!(
        other.stderr.contains("continues when there is space"),
        "{other:?}"
    );
    assert_eq!(world.inspect("dev")["status"], "running");
    world.stdout(&["stop", "dev"]);
    world.check_disk("dev");

    // The power is cut, so only what was synced counts.
    world.inside("dev", "echo kept > /kept && sync");
    let filler = small.fill();
    let written = write(&world);
    eventually("the machine is paused", || is_paused(&world));
    world.stdout(&["stop", "--force", "dev"]);
    assert!(world.is_stopped("dev"));
    assert_ne!(written().stdout, "written\n");
    let error = world.error(&["start", "dev"]);
    assert!(error.contains("the disk is full"), "{error}");
    fs::remove_file(&filler).unwrap();
    assert_eq!(world.inside("dev", "cat /kept"), "kept\n");

    world.stdout(&["stop", "dev"]);
    let filler = small.fill();
    let nearly_full = File::options().write(true).open(&filler).unwrap();
    let length = nearly_full.metadata().unwrap().len();
    nearly_full.set_len(length - (24 << 20)).unwrap();
    let larger = lab.image("debian-tools:12");
    let pulled = world.container(&["image", "pull", &larger]).output();
    let pulled = Outcome::from(pulled.unwrap());
    assert!(pulled.error().contains("the download needs"), "{pulled:?}");
    fs::remove_file(&filler).unwrap();

    let removals = [
        "machine rm dev",
        &format!("image rm {image}"),
        "system prune --all --force",
    ];
    for removal in removals {
        let filler = small.fill();
        let words: Vec<&str> = removal.split(' ').collect();
        let outcome = Outcome::from(world.container(&words).output().unwrap());
        assert_eq!(outcome.code, Some(0), "{removal}: {outcome:?}");
        fs::remove_file(&filler).unwrap();
    }
    assert_eq!(world.bundles(), [""; 0]);
}
