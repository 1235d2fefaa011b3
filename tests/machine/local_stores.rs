//! Images from other programs' stores on this host, and images built on this host.

use std::{fs, path::PathBuf, process::Command};

use end_to_end::{Lab, Outcome, World, eventually};

crate::declare::tests![
    image_of_an_engine_needs_no_registry,
    image_in_containers_storage_needs_no_registry,
    stores_can_be_disabled_in_the_configuration,
    built_image_is_in_the_image_store,
    build_needs_a_builder,
];

/// A separate containers-storage of podman and buildah.
struct Storage {
    directory: PathBuf,
}

impl Storage {
    /// Creates a storage that allows unencrypted access to the lab's registry.
    fn new(world: &World, lab: &Lab) -> Storage {
        let directory = world.path("storage");
        fs::create_dir(&directory).unwrap();
        let storage = Storage { directory };
        let path = |name| storage.path(name);
        let text = format!(
            "[storage]\ndriver = \"vfs\"\ngraphroot = \"{}\"\nrunroot = \"{}\"\n",
            path("graph"),
            path("run")
        );
        fs::write(path("storage.conf"), text).unwrap();
        let text = format!(
            "[[registry]]\nlocation = \"{}\"\ninsecure = true\n",
            lab.registry()
        );
        fs::write(path("registries.conf"), text).unwrap();
        storage
    }

    fn path(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    /// Makes a command use this storage.
    fn with<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .env("CONTAINERS_STORAGE_CONF", self.path("storage.conf"))
            .env("CONTAINERS_REGISTRIES_CONF", self.path("registries.conf"))
            .env("BUILDAH_ISOLATION", "chroot")
    }

    /// Pulls an image of the lab into this storage and tags it.
    fn put(&self, lab: &Lab, image: &str, name: &str) {
        let image = lab.image(image);
        for arguments in [&["pull", "--quiet", &image][..], &["tag", &image, name]] {
            let output = self.with(Command::new("buildah").args(arguments)).output();
            let output = output.unwrap();
            assert!(output.status.success(), "{output:?}");
        }
    }
}

fn create<'a>(image: &'a str, name: &'a str) -> [&'a str; 5] {
    ["create", image, "--name", name, "--no-boot"]
}

fn succeeds(command: &mut Command) -> String {
    let outcome = Outcome::from(command.output().unwrap());
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    outcome.stdout
}

fn digest(world: &World, machine: &str) -> String {
    let image = &world.inspect(machine)["image"];
    assert_eq!(image["reference"], "docker.io/local/x:latest");
    image["descriptor"]["digest"].as_str().unwrap().to_owned()
}

fn image_of_an_engine_needs_no_registry(lab: &Lab) {
    let world = World::for_root();
    let storage = Storage::new(&world, lab);
    storage.put(lab, "busybox:1", "localhost/local/x");
    let socket = storage.path("engine.sock");
    let mut engine = Command::new("podman");
    let engine = storage.with(engine.args(["system", "service", "--time=0"]));
    let mut engine = engine.arg(format!("unix://{socket}")).spawn().unwrap();
    eventually("the engine listens", || fs::exists(&socket).unwrap());
    let from_engine = |name| {
        let mut command = world.machine(&create("local/x", name));
        let outcome = command
            .env("DOCKER_HOST", format!("unix://{socket}"))
            .output();
        Outcome::from(outcome.unwrap())
    };
    let first = from_engine("first");
    assert_eq!(first.code, Some(0), "{first:?}");
    assert!(first.stderr.contains("from the engine at"), "{first:?}");
    world.check_disk("first");
    // An image that is in the store is not loaded again.
    let again = from_engine("again");
    assert!(!again.stderr.contains("from the engine at"), "{again:?}");
    assert_eq!(digest(&world, "first"), digest(&world, "again"));
    // A rebuilt image is another image with the same name.
    storage.put(lab, "busybox-plain:1", "localhost/local/x");
    let second = from_engine("second");
    assert_eq!(second.code, Some(0), "{second:?}");
    assert_ne!(digest(&world, "first"), digest(&world, "second"));
    engine.kill().unwrap();
    engine.wait().unwrap();
    // Without the engine, the image that was loaded is used.
    let alone = from_engine("alone");
    assert_eq!(alone.code, Some(0), "{alone:?}");
    assert_eq!(digest(&world, "alone"), digest(&world, "second"));
    let passed_over = format!("DOCKER_HOST=unix://{socket}: ");
    assert!(alone.stderr.contains(&passed_over), "{alone:?}");
    // A name that no store has is pulled from the registry.
    let error = Outcome::from(
        world
            .machine(&create("127.0.0.1:1/x", "none"))
            .output()
            .unwrap(),
    );
    assert!(error.error().contains("127.0.0.1:1"), "{error:?}");
}

fn image_in_containers_storage_needs_no_registry(lab: &Lab) {
    let world = World::for_root();
    let storage = Storage::new(&world, lab);
    storage.put(lab, "busybox:1", "localhost/local/x");
    let outcome = storage
        .with(&mut world.machine(&create("local/x", "dev")))
        .output();
    let outcome = Outcome::from(outcome.unwrap());
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(
        outcome.stderr.contains("from buildah's store"),
        "{outcome:?}"
    );
    digest(&world, "dev");
    world.check_disk("dev");
    // The same image under another name is not loaded again.
    storage.put(lab, "busybox:1", "localhost/local/y");
    let outcome = storage
        .with(&mut world.machine(&create("local/y", "same")))
        .output();
    let outcome = Outcome::from(outcome.unwrap());
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(
        !outcome.stderr.contains("fetching image from"),
        "{outcome:?}"
    );
    let description = |machine| world.inspect(machine)["image"]["descriptor"].clone();
    assert_eq!(description("same"), description("dev"));
}

fn stores_can_be_disabled_in_the_configuration(lab: &Lab) {
    let world = World::for_root();
    let storage = Storage::new(&world, lab);
    storage.put(lab, "busybox:1", "localhost/local/x");
    world.configure("[image]\nlocal-stores = []\n[registry]\ndomain = \"127.0.0.1:1\"\n");
    let outcome = storage
        .with(&mut world.machine(&create("local/x", "dev")))
        .output();
    let outcome = Outcome::from(outcome.unwrap());
    assert!(outcome.error().contains("127.0.0.1:1"), "{outcome:?}");
}

fn built_image_is_in_the_image_store(lab: &Lab) {
    let world = World::for_root();
    let storage = Storage::new(&world, lab);
    let context = xtask::checkout().join("images/debian-systemd");
    let base = format!("BASE={}", lab.image("debian-plain:12"));
    let mut build = world.container(&["build", "-t", "local/systemd", "--build-arg", &base]);
    let digest = succeeds(storage.with(build.arg(&context)));
    assert!(digest.starts_with("sha256:"), "{digest}");
    world.create("local/systemd", "dev", &[]);
    let description = &world.inspect("dev")["image"]["descriptor"];
    assert_eq!(description["digest"], digest.trim());
    let state = world.run(&["run", "-n", "dev", "systemctl is-system-running --wait"]);
    assert!(
        ["running\n", "degraded\n"].contains(&state.stdout.as_str()),
        "{state:?}"
    );
    // The Dockerfile from standard input; and a failed build leaves nothing.
    let recipe = world.path("recipe");
    let build = |steps: &str| {
        fs::write(
            &recipe,
            format!("FROM {}\n{steps}\n", lab.image("busybox:1")),
        )
        .unwrap();
        let mut build = world.container(&["build", "-f", "-", "-t", "local/read"]);
        build.arg(&context).stdin(fs::File::open(&recipe).unwrap());
        Outcome::from(storage.with(&mut build).output().unwrap())
    };
    let read = build("LABEL from=input");
    assert!(read.stdout.starts_with("sha256:"), "{read:?}");
    let failed = build("RUN exit 7");
    assert_eq!(failed.code, Some(1), "{failed:?}");
    let mut left = Command::new("buildah");
    assert_eq!(
        succeeds(storage.with(left.args(["containers", "--quiet"]))),
        ""
    );
}

fn build_needs_a_builder(_: &Lab) {
    let world = World::for_root();
    let mut build = world.container(&["build", "-t", "x", "."]);
    let outcome = Outcome::from(build.env("PATH", world.path("usr/bin")).output().unwrap());
    assert!(outcome.error().contains("no builder found"), "{outcome:?}");
    let mut build = world.container(&["build", "-t", "x", "none"]);
    let outcome = Outcome::from(build.output().unwrap());
    assert!(
        outcome.error().contains("directory none not found"),
        "{outcome:?}"
    );
}
