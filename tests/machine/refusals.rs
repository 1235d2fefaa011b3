//! Refused requests: each has one clear error and leaves nothing.

use std::{fs, path::Path, process::Command};

use end_to_end::{Lab, World};
use xtask::registry::{self, Registry};

crate::declare::tests![
    missing_image_is_named,
    unreachable_registry_is_named,
    corrupt_layer_is_refused,
    missing_digest_is_named,
    existing_name_is_refused,
    more_resources_than_the_host_has_are_refused,
    errors_in_the_configuration_are_located,
    missing_engine_is_named,
    missing_and_invalid_kernels_are_refused,
    missing_home_is_named,
    full_disk_is_reported,
];

/// Runs a create, which must fail and leave nothing, and returns its error.
fn refused(world: &World, image: &str) -> String {
    let error = world.error(&[
        "create", image, "--name", "dev", "--cpus", "2", "--memory", "1G",
    ]);
    assert_eq!(world.bundles(), [""; 0]);
    assert!(world.engines().is_empty());
    error
}

fn missing_image_is_named(lab: &Lab) {
    let world = World::for_user();
    for name in ["no-such-image:1", "busybox:no-such-tag"] {
        let error = refused(&world, &lab.image(name));
        assert!(error.contains(name), "{error}");
    }
}

fn unreachable_registry_is_named(_: &Lab) {
    let error = refused(&World::for_user(), "127.0.0.1:1/debian:12");
    assert!(
        error.contains("127.0.0.1:1") && error.contains("refused"),
        "{error}"
    );
}

fn corrupt_layer_is_refused(_: &Lab) {
    let world = World::for_user();
    let storage = world.path("registry");
    let copied = Command::new("cp")
        .arg("-r")
        .arg(registry::storage())
        .arg(&storage)
        .status();
    assert!(copied.unwrap().success());
    let is_layer = |file: &std::path::PathBuf| fs::metadata(file).unwrap().len() > 1 << 20;
    let layers: Vec<_> = files(&storage).into_iter().filter(is_layer).collect();
    for layer in &layers {
        let mut bytes = fs::read(layer).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(layer, bytes).unwrap();
    }
    let corrupt = Registry::start(&storage).unwrap();
    let image = format!("{}/debian-systemd:12", corrupt.address());
    let error = refused(&world, &image);
    assert!(error.contains("sha256:"), "{error}");
    let blobs = files(&world.path("data/container/images"));
    for layer in layers {
        let digest = layer.parent().unwrap().file_name().unwrap();
        let is_kept = blobs.iter().any(|blob| blob.ends_with(Path::new(digest)));
        assert!(!is_kept, "a corrupt layer is not stored");
    }
}

fn files(directory: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut all = Vec::new();
    for path in entries {
        if path.is_dir() {
            all.extend(files(&path));
        } else {
            all.push(path);
        }
    }
    all
}

fn missing_digest_is_named(lab: &Lab) {
    let world = World::for_user();
    let digest = format!("sha256:{}", "0".repeat(64));
    let error = refused(&world, &lab.image(&format!("busybox@{digest}")));
    assert!(error.contains(&digest), "{error}");
}

fn existing_name_is_refused(lab: &Lab) {
    let world = World::for_user();
    let image = lab.image("busybox:1");
    world.create(&image, "busybox-1", &["--no-boot"]);
    let error = world.error(&["create", &image, "--name", "busybox-1", "--no-boot"]);
    assert!(
        error.contains("machine \"busybox-1\" already exists"),
        "{error}"
    );
    let unnamed = world.error(&["create", &image, "--no-boot"]);
    assert!(unnamed.contains("--name"), "{unnamed}");
    assert_eq!(world.bundles(), ["busybox-1"]);
}

fn more_resources_than_the_host_has_are_refused(lab: &Lab) {
    let world = World::for_user();
    let image = lab.image("busybox:1");
    for (option, value) in [("--memory", "900G"), ("--cpus", "5000")] {
        let error = world.error(&["create", &image, option, value]);
        assert!(error.contains("this host"), "{error}");
    }
    assert_eq!(world.bundles(), [""; 0]);
}

fn errors_in_the_configuration_are_located(lab: &Lab) {
    let world = World::for_user();
    let image = lab.image("busybox:1");
    for (text, line, key) in [
        ("[machine]\ncpus = 0\n", "line 2", "cpus"),
        ("[machine]\n\nmemory = \"12\"\n", "line 3", "memory"),
        ("[machine]\nhome-mount = \"all\"\n", "line 2", "home-mount"),
        (
            "[machine]\nvirtualization = 1\n",
            "line 2",
            "virtualization",
        ),
        ("[machine]\nkernel = 1\n", "line 2", "kernel"),
        ("[machine]\ncolour = \"red\"\n", "line 2", "colour"),
        ("[registry]\ndomain = 7\n", "line 2", "domain"),
        ("[engine]\naccelerator = \"x\"\n", "line 2", "accelerator"),
        ("[machines]\n", "line 1", "machines"),
        ("[machine\n", "line 1", "[machine"),
    ] {
        world.configure(text);
        let error = world.error(&["create", &image, "--no-boot"]);
        for part in ["config.toml", line, key] {
            assert!(error.contains(part), "{text}: {error}");
        }
    }
    world.configure("[machine]\ncpus = 3\nmemory = \"1536M\"\nhome-mount = \"none\"\n");
    world.stdout(&["create", &image, "--name", "as-configured", "--no-boot"]);
    let machine = world.inspect("as-configured");
    assert_eq!(machine["cpus"], 3);
    assert_eq!(machine["memory"], 1536u64 << 20);
    assert_eq!(machine["homeMount"], "none");
    let host = image.split_once('/').unwrap().0;
    world.configure(&format!("[registry]\ndomain = \"{host}\"\n"));
    world.stdout(&["create", "busybox:1", "--name", "by-domain", "--no-boot"]);
    assert_eq!(world.inspect("by-domain")["image"]["reference"], *image);
}

fn missing_engine_is_named(lab: &Lab) {
    let world = World::for_user();
    world.configure("[engine]\nprogram = \"/no/such/engine\"\n");
    let error = refused(&world, &lab.image("busybox:1"));
    assert!(error.contains("/no/such/engine"), "{error}");
}

fn missing_and_invalid_kernels_are_refused(lab: &Lab) {
    let world = World::for_user();
    let kernel = world.path("usr/lib/container/kernels");
    let aside = world.path("kernels");
    fs::rename(&kernel, &aside).unwrap();
    let error = refused(&world, &lab.image("busybox:1"));
    assert!(
        error.contains("no kernel") && error.contains("make build"),
        "{error}"
    );
    fs::rename(&aside, &kernel).unwrap();
    fs::write(world.path("no-kernel"), "this is no kernel").unwrap();
    let no_kernel = world.path("no-kernel").display().to_string();
    let outcome = world.run(&[
        "create",
        &lab.image("busybox:1"),
        "--name",
        "dev",
        "--kernel",
        &no_kernel,
    ]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(
        outcome.stderr.contains("neither an ELF file"),
        "{outcome:?}"
    );
    assert_eq!(world.bundles(), [""; 0]);
}

fn missing_home_is_named(lab: &Lab) {
    let world = World::for_root();
    let mut create = world.machine(&["create", &lab.image("busybox:1"), "--name", "dev"]);
    let outcome = create.env("HOME", "/no/such/home").output().unwrap();
    let outcome = end_to_end::Outcome::from(outcome);
    assert!(outcome.error().contains("/no/such/home"), "{outcome:?}");
    assert_eq!(world.bundles(), [""; 0]);
}

/// The data directory's file system is too small for the image, then for the machine's disk.
fn full_disk_is_reported(lab: &Lab) {
    let world = World::for_root();
    let data = world.path("data");
    let mount = |options: &str| {
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", options, "none"])
            .arg(&data);
        assert!(mount.status().unwrap().success());
    };
    mount("size=24M");
    let error = refused(&world, &lab.image("debian-systemd:12"));
    assert!(error.contains("the disk is full"), "{error}");
    let left = files(&data.join("container/images/incoming"));
    assert!(left.is_empty(), "{left:?}");
    mount("remount,size=40M");
    let error = refused(&world, &lab.image("busybox:1"));
    assert!(error.contains("the disk is full"), "{error}");
    for service in world.processes("service") {
        service.kill();
    }
    end_to_end::eventually("the file system is no longer in use", || {
        let mut umount = Command::new("umount");
        umount.arg(&data).status().unwrap().success()
    });
}
