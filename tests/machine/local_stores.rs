//! Images that other programs on this host have, and images built here: no registry is needed.

use std::{fs, path::PathBuf, process::Command};

use end_to_end::{Lab, Outcome, World, eventually};

crate::tests![
    an_image_in_an_engine_needs_no_registry,
    an_image_in_containers_storage_needs_no_registry,
    stores_are_asked_in_the_order_of_the_configuration,
    what_a_builder_builds_is_an_image_here,
    without_a_builder_nothing_is_built,
];

/// A container store of its own, as podman and buildah know it.
struct Storage {
    directory: PathBuf,
}

impl Storage {
    /// A store in this world. The registry of the lab may be spoken to without encryption.
    fn of(world: &World, lab: &Lab) -> Storage {
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

    /// The same command, which finds this store.
    fn with<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .env("CONTAINERS_STORAGE_CONF", self.path("storage.conf"))
            .env("CONTAINERS_REGISTRIES_CONF", self.path("registries.conf"))
            .env("BUILDAH_ISOLATION", "chroot")
    }

    /// Gives an image of the lab this name here.
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

fn an_image_in_an_engine_needs_no_registry(lab: &Lab) {
    let world = World::of_root();
    let storage = Storage::of(&world, lab);
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
    // What is here already is not taken over again.
    let again = from_engine("again");
    assert!(!again.stderr.contains("from the engine at"), "{again:?}");
    assert_eq!(digest(&world, "first"), digest(&world, "again"));
    // Built anew, it is another image of the same name.
    storage.put(lab, "busybox-plain:1", "localhost/local/x");
    let second = from_engine("second");
    assert_eq!(second.code, Some(0), "{second:?}");
    assert_ne!(digest(&world, "first"), digest(&world, "second"));
    engine.kill().unwrap();
    engine.wait().unwrap();
    // Without the engine, what it gave is still here.
    let alone = from_engine("alone");
    assert_eq!(alone.code, Some(0), "{alone:?}");
    assert_eq!(digest(&world, "alone"), digest(&world, "second"));
    let passed_over = format!("passed over: DOCKER_HOST is unix://{socket}: ");
    assert!(alone.stderr.contains(&passed_over), "{alone:?}");
    // A name that nobody here has is the registry's.
    let error = Outcome::from(
        world
            .machine(&create("127.0.0.1:1/x", "none"))
            .output()
            .unwrap(),
    );
    assert!(error.error().contains("127.0.0.1:1"), "{error:?}");
}

fn an_image_in_containers_storage_needs_no_registry(lab: &Lab) {
    let world = World::of_root();
    let storage = Storage::of(&world, lab);
    storage.put(lab, "busybox:1", "localhost/local/x");
    let told = storage
        .with(&mut world.machine(&create("local/x", "dev")))
        .output();
    let told = Outcome::from(told.unwrap());
    assert_eq!(told.code, Some(0), "{told:?}");
    assert!(told.stderr.contains("from buildah's store"), "{told:?}");
    digest(&world, "dev");
    world.check_disk("dev");
    // The same image under another name is here already.
    storage.put(lab, "busybox:1", "localhost/local/y");
    let told = storage
        .with(&mut world.machine(&create("local/y", "same")))
        .output();
    let told = Outcome::from(told.unwrap());
    assert_eq!(told.code, Some(0), "{told:?}");
    assert!(!told.stderr.contains("fetching image from"), "{told:?}");
    let description = |machine| world.inspect(machine)["image"]["descriptor"].clone();
    assert_eq!(description("same"), description("dev"));
}

fn stores_are_asked_in_the_order_of_the_configuration(lab: &Lab) {
    let world = World::of_root();
    let storage = Storage::of(&world, lab);
    storage.put(lab, "busybox:1", "localhost/local/x");
    world.configure("[image]\nlocal-stores = []\n[registry]\ndomain = \"127.0.0.1:1\"\n");
    let told = storage
        .with(&mut world.machine(&create("local/x", "dev")))
        .output();
    let told = Outcome::from(told.unwrap());
    assert!(told.error().contains("127.0.0.1:1"), "{told:?}");
}

fn what_a_builder_builds_is_an_image_here(lab: &Lab) {
    let world = World::of_root();
    let storage = Storage::of(&world, lab);
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
    // From standard input; and a build that fails leaves nothing behind.
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

fn without_a_builder_nothing_is_built(_: &Lab) {
    let world = World::of_root();
    let mut build = world.container(&["build", "-t", "x", "."]);
    let outcome = Outcome::from(build.env("PATH", world.path("usr/bin")).output().unwrap());
    assert!(
        outcome.error().contains("no builder is installed"),
        "{outcome:?}"
    );
    let mut build = world.container(&["build", "-t", "x", "none"]);
    let outcome = Outcome::from(build.output().unwrap());
    assert!(outcome.error().contains("no directory none"), "{outcome:?}");
}
