//! What cannot be done: one clear sentence each, and nothing left behind.

use std::{fs, path::Path, process::Command};

use end_to_end::{Lab, World};
use xtask::registry::{self, Registry};

crate::tests![
    no_such_image,
    no_registry,
    a_layer_that_is_not_what_it_says,
    a_digest_that_nobody_has,
    a_taken_name,
    more_than_the_host_has,
    mistakes_in_the_configuration,
    no_engine,
    no_kernel,
    a_home_that_is_not_there,
    a_full_disk,
];

/// Creates, expects to be refused, and returns the sentence.
fn refused(world: &World, image: &str) -> String {
    let error = world.error(&[
        "create", image, "--name", "dev", "--cpus", "2", "--memory", "1G",
    ]);
    assert_eq!(world.bundles(), [""; 0]);
    assert!(world.engines().is_empty());
    error
}

fn no_such_image(lab: &Lab) {
    let world = World::of_user();
    for name in ["no-such-image:1", "busybox:no-such-tag"] {
        let error = refused(&world, &lab.image(name));
        assert!(error.contains(name), "{error}");
    }
}

fn no_registry(_: &Lab) {
    let error = refused(&World::of_user(), "127.0.0.1:1/debian:12");
    assert!(
        error.contains("127.0.0.1:1") && error.contains("refused"),
        "{error}"
    );
}

fn a_layer_that_is_not_what_it_says(_: &Lab) {
    let world = World::of_user();
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
        assert!(!is_kept, "what is not what it says is not kept");
    }
}

fn files(directory: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut all = Vec::new();
    for path in entries {
        match path.is_dir() {
            true => all.extend(files(&path)),
            false => all.push(path),
        }
    }
    all
}

fn a_digest_that_nobody_has(lab: &Lab) {
    let world = World::of_user();
    let digest = format!("sha256:{}", "0".repeat(64));
    let error = refused(&world, &lab.image(&format!("busybox@{digest}")));
    assert!(error.contains(&digest), "{error}");
}

fn a_taken_name(lab: &Lab) {
    let world = World::of_user();
    let image = lab.image("busybox:1");
    world.create(&image, "busybox-1", &["--no-boot"]);
    let error = world.error(&["create", &image, "--name", "busybox-1", "--no-boot"]);
    assert!(error.contains("busybox-1 exists already"), "{error}");
    let unnamed = world.error(&["create", &image, "--no-boot"]);
    assert!(unnamed.contains("--name"), "{unnamed}");
    assert_eq!(world.bundles(), ["busybox-1"]);
}

fn more_than_the_host_has(lab: &Lab) {
    let world = World::of_user();
    let image = lab.image("busybox:1");
    for (option, value) in [("--memory", "900G"), ("--cpus", "5000")] {
        let error = world.error(&["create", &image, option, value]);
        assert!(error.contains("this host"), "{error}");
    }
    assert_eq!(world.bundles(), [""; 0]);
}

fn mistakes_in_the_configuration(lab: &Lab) {
    let world = World::of_user();
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

fn no_engine(lab: &Lab) {
    let world = World::of_user();
    world.configure("[engine]\nprogram = \"/no/such/engine\"\n");
    let error = refused(&world, &lab.image("busybox:1"));
    assert!(error.contains("/no/such/engine"), "{error}");
}

fn no_kernel(lab: &Lab) {
    let world = World::of_user();
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

fn a_home_that_is_not_there(lab: &Lab) {
    let world = World::of_root();
    let mut create = world.machine(&["create", &lab.image("busybox:1"), "--name", "dev"]);
    let outcome = create.env("HOME", "/no/such/home").output().unwrap();
    let outcome = end_to_end::Outcome::from(outcome);
    assert!(outcome.error().contains("/no/such/home"), "{outcome:?}");
    assert_eq!(world.bundles(), [""; 0]);
}

/// File systems for the data that have no room for the image, and none for the machine's disk.
fn a_full_disk(lab: &Lab) {
    let world = World::of_root();
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
    end_to_end::eventually("it can be unmounted", || {
        let mut umount = Command::new("umount");
        umount.arg(&data).status().unwrap().success()
    });
}
