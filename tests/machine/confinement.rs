//! The engine cannot open the user's files.

use std::{fs, os::unix::fs::PermissionsExt};

use end_to_end::{Lab, World};

crate::declare::tests![engine_reads_only_files_of_its_machine];

fn engine_reads_only_files_of_its_machine(lab: &Lab) {
    for world in [World::for_user(), World::for_root()] {
        let secret = world.home().join("secret");
        fs::write(&secret, "a secret").unwrap();
        let directory = world.path("engine");
        fs::create_dir(&directory).unwrap();
        let engine = directory.join("qemu");
        let script = format!(
            "#!/bin/sh\ncat {}\nexec qemu-system-x86_64 \"$@\"\n",
            secret.display()
        );
        fs::write(&engine, script).unwrap();
        for file in [&directory, &engine, &secret] {
            fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let settings = format!("[engine]\nprogram = \"{}\"\n", engine.display());
        world.configure(&settings);
        world.create(&lab.image("busybox:1"), "dev", &["--no-boot"]);
        assert_eq!(world.inside("dev", "cat ~/secret"), "a secret");
        let log = || fs::read_to_string(world.bundle("dev", "engine.log")).unwrap();
        assert!(log().contains("Permission denied"), "{}", log());
        assert!(!log().contains("a secret"), "{}", log());
        world.stdout(&["stop", "dev"]);
        world.configure(&format!("{settings}confinement = \"none\"\n"));
        world.inside("dev", "true");
        assert!(log().contains("a secret"), "{}", log());
    }
}
