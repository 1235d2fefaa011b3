//! The engine cannot open the user's files.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

use end_to_end::{Lab, World};
use serde_json::Value;

crate::declare::tests![
    engine_reads_only_files_of_its_machine,
    disk_that_names_another_file_is_not_used
];

fn engine_reads_only_files_of_its_machine(lab: &Lab) {
    for world in [World::for_user(), World::for_root()] {
        let secret = world.home().join("secret");
        fs::write(&secret, "a secret").unwrap();
        let directory = world.path("engine");
        fs::create_dir(&directory).unwrap();
        let engine = directory.join("qemu");
        let script = format!(
            "#!/bin/sh\ncat {}\necho damaged > {}\nexec qemu-system-x86_64 \"$@\"\n",
            secret.display(),
            world.bundle("dev", "boot-config.json").display()
        );
        fs::write(&engine, script).unwrap();
        for file in [&directory, &engine, &secret] {
            fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let settings = format!("[engine]\nprogram = \"{}\"\n", engine.display());
        world.configure(&settings);
        world.create(&lab.image("busybox:1"), "dev", &["--no-boot"]);
        let machine = world.inspect("dev");
        assert_eq!(world.inside("dev", "cat ~/secret"), "a secret");
        let log = || fs::read_to_string(world.bundle("dev", "engine.log")).unwrap();
        assert!(log().contains("Permission denied"), "{}", log());
        assert!(!log().contains("a secret"), "{}", log());
        assert_eq!(world.inspect("dev")["memory"], machine["memory"]);
        world.stdout(&["stop", "dev"]);
        // Without the confinement it could write there.
        let script = fs::read_to_string(&engine).unwrap();
        let harmless: Vec<&str> = script
            .lines()
            .filter(|it| !it.contains("damaged"))
            .collect();
        fs::write(&engine, harmless.join("\n")).unwrap();
        world.configure(&format!("{settings}confinement = \"none\"\n"));
        world.inside("dev", "true");
        assert!(log().contains("a secret"), "{}", log());
    }
}

/// The engine writes the disk, and with it the name of its base.
fn disk_that_names_another_file_is_not_used(lab: &Lab) {
    let world = World::for_user();
    world.create(&lab.image("busybox:1"), "dev", &["--no-boot"]);
    let secret = world.home().join("secret");
    fs::write(&secret, "a secret").unwrap();
    let disk = world.bundle("dev", "disk.qcow2");
    let name_base = |base: &Path| {
        let mut rebase = Command::new("qemu-img");
        rebase.args(["rebase", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b"]);
        assert!(rebase.args([base, &disk]).status().unwrap().success());
    };
    let header = Command::new("qemu-img")
        .args(["info", "--output", "json"])
        .arg(&disk)
        .output()
        .unwrap();
    let header: Value = serde_json::from_slice(&header.stdout).unwrap();
    name_base(&secret);
    let archive = world.home().join("archive");
    for arguments in [
        &["start", "dev"][..],
        &["commit", "dev", "localhost/copy"],
        &["export", "dev", "-o", archive.to_str().unwrap()],
    ] {
        let outcome = world.run(arguments);
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        let reason = format!("{} is not an image of this program", secret.display());
        assert!(outcome.stderr.contains(&reason), "{outcome:?}");
    }
    name_base(Path::new(header["backing-filename"].as_str().unwrap()));
    world.inside("dev", "true");
}
