//! Files of the data directory that end too early, as after a power cut on some file systems.
//!
//! They are replaced atomically and synced, so this should not happen. If it does, nothing may be
//! lost beside the file: with the file as it was, everything is as before.

use std::{
    fs,
    path::{Path, PathBuf},
};

use end_to_end::{Lab, World};

crate::declare::tests![truncated_files_lose_nothing_else];

/// Larger files are contents: of disks, images and logs.
const LARGEST: u64 = 64 << 10;

fn truncated_files_lose_nothing_else(lab: &Lab) {
    let world = World::for_root();
    let image = lab.image("busybox:1");
    world.create(&image, "tiny", &["--egress", "public"]);
    world.stdout(&["stop", "tiny"]);
    world.stdout(&["snapshot", "create", "-n", "tiny", "before"]);
    world.create(&image, "other", &["--no-boot"]);
    let state = |world: &World| {
        let images = world
            .container(&["image", "ls", "--format", "json"])
            .output()
            .unwrap();
        assert!(images.status.success(), "{images:?}");
        [
            world.stdout(&["ls", "--format", "json"]),
            world.inspect("tiny").to_string(),
            world.stdout(&["snapshot", "ls", "-n", "tiny", "--format", "json"]),
            String::from_utf8(images.stdout).unwrap(),
        ]
    };
    let before = state(&world);
    let mut files = Vec::new();
    state_files(&world.path("data/container"), &mut files);
    assert!(files.len() > 5, "{files:?}");
    for file in &files {
        let whole = fs::read(file).unwrap();
        for length in [0, 1, whole.len() / 2, whole.len().saturating_sub(1)] {
            fs::write(file, &whole[..length]).unwrap();
            for command in [
                &["ls"][..],
                &["inspect", "tiny"],
                &["set", "-n", "tiny", "cpus=2"],
                &["snapshot", "ls", "-n", "tiny"],
                &["create", &image, "--name", "new", "--no-boot"],
                &["rm", "new"],
            ] {
                let outcome = world.run(command);
                let is_answer = matches!(outcome.code, Some(0 | 1));
                let context = format!("{} to {length}: {command:?}", file.display());
                assert!(
                    is_answer && !outcome.stderr.contains("panicked"),
                    "{context}: {outcome:?}"
                );
                let says_delete = outcome.stderr.contains("container machine rm");
                assert!(!says_delete, "{context}: {outcome:?}");
            }
            // The service has read some of them when it started.
            world.processes("service").iter().for_each(|it| it.kill());
            let listed = world.run(&["ls", "-q"]);
            for machine in ["tiny", "other"] {
                let is_listed = listed.stdout.lines().any(|line| line == machine);
                let is_explained = listed.stderr.contains(&format!("machine \"{machine}\""));
                let context = format!("{} to {length}: {listed:?}", file.display());
                assert!(is_listed || is_explained, "{context}");
            }
            world.processes("service").iter().for_each(|it| it.kill());
            fs::write(file, &whole).unwrap();
            assert_eq!(state(&world), before, "{} to {length}", file.display());
        }
    }
    assert_eq!(world.inside("tiny", "echo up"), "up\n");
}

/// Adds the small files below a directory that are not empty.
fn state_files(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let about = entry.metadata().unwrap();
        let is_log = entry
            .path()
            .extension()
            .is_some_and(|extension| extension == "log");
        if about.is_dir() {
            state_files(&entry.path(), files);
        } else if about.is_file() && (1..=LARGEST).contains(&about.len()) && !is_log {
            files.push(entry.path());
        }
    }
}
