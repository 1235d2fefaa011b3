//! Images: pull, list, tag, remove, prune, load and save.

use std::{
    env,
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::Path,
    process::{Command, Stdio},
};

use end_to_end::{Lab, Outcome, Terminal, World};
use serde_json::Value;
use sha2::{Digest, Sha256};

crate::declare::tests![
    images_are_found_by_name_and_digest,
    images_of_machines_are_not_removed,
    prune_removes_unused_images_and_bases,
    prune_asks_for_confirmation_on_a_terminal,
    disk_usage_is_counted_and_freed,
    machines_are_created_during_a_prune,
    killed_service_keeps_named_images,
    saved_images_are_loaded_by_other_programs,
    images_saved_by_other_programs_are_loaded,
    damaged_archives_leave_nothing,
    removed_store_is_recreated,
    memory_for_unpacking_is_bounded,
];

fn container(world: &World, arguments: &[&str]) -> Command {
    let mut command = world.command(&world.program());
    command.args(arguments);
    command
}

fn outcome(command: &mut Command) -> Outcome {
    command.output().unwrap().into()
}

/// Runs `container image`, which must succeed, and returns its standard output.
fn image(world: &World, arguments: &[&str]) -> String {
    let arguments = [&["image"], arguments].concat();
    let outcome = outcome(&mut container(world, &arguments));
    assert_eq!(outcome.code, Some(0), "{arguments:?}: {outcome:?}");
    outcome.stdout
}

/// Runs `container image`, which must fail, and returns its error.
fn refused(world: &World, arguments: &[&str]) -> String {
    let arguments = [&["image"], arguments].concat();
    outcome(&mut container(world, &arguments))
        .error()
        .to_owned()
}

fn list(world: &World) -> Value {
    serde_json::from_str(&image(world, &["ls", "--format", "json"])).unwrap()
}

fn machine(world: &World, image: &str, name: &str) {
    world.create(image, name, &["--no-boot", "--home-mount", "none"]);
}

fn files(world: &World, directory: &str) -> usize {
    let directory = world.path("data/container/images").join(directory);
    fs::read_dir(directory).unwrap().count()
}

fn succeed(command: &mut Command) -> String {
    let outcome = outcome(command);
    assert_eq!(outcome.code, Some(0), "{command:?}: {outcome:?}");
    outcome.stdout
}

fn images_are_found_by_name_and_digest(lab: &Lab) {
    let world = World::for_user();
    let busybox = lab.image("busybox:1");
    let pulled = image(&world, &["pull", &busybox]);
    let (name, digest) = pulled.trim().split_once('@').unwrap();
    assert_eq!(format!("{name}:1"), busybox);
    assert_eq!(files(&world, "bases"), 0);
    let tagged = image(&world, &["tag", &busybox, "mine:1"]);
    assert_eq!(tagged, "docker.io/library/mine:1\n");
    let short = &digest["sha256:".len()..][..12];
    let table = image(&world, &["ls"]);
    for words in ["mine ", name, short, "linux/amd64"] {
        assert!(table.contains(words), "{words}: {table}");
    }
    for word in [&busybox, "mine:1", short, digest, pulled.trim()] {
        let inspected = image(
            &world,
            &["inspect", word, "--format", "{{ descriptor.digest }}"],
        );
        assert_eq!(inspected.trim(), digest, "{word}");
    }
    // A digest needs no registry. The machine gets the name of the repository.
    world.run(&["create", short, "--no-boot", "--home-mount", "none"]);
    assert_eq!(world.bundles(), ["busybox"]);
    let listed = list(&world);
    assert_eq!(listed[0]["machines"], serde_json::json!(["busybox"]));
    assert_eq!(listed[0]["sharedSize"], listed[0]["diskSize"]);
    let used = image(&world, &["ls", "-q", "--filter", "used=true"]);
    assert_eq!(used.lines().count(), 2, "{used}");
    let error = refused(&world, &["inspect", "no-such"]);
    assert_eq!(error.matches("no-such").count(), 1, "{error}");
    let completed = container(&world, &["--", "container", "image", "rm", "docker.io/lib"])
        .env("CONTAINER_COMPLETE", "bash")
        .env("_CLAP_COMPLETE_INDEX", "3")
        .output();
    let completed = Outcome::from(completed.unwrap());
    assert!(completed.stdout.contains("library/mine:1"), "{completed:?}");
}

fn images_of_machines_are_not_removed(lab: &Lab) {
    let world = World::for_user();
    let busybox = lab.image("busybox:1");
    machine(&world, &busybox, "dev");
    image(&world, &["tag", &busybox, "also:1"]);
    let digest = list(&world)[0]["digest"].as_str().unwrap().to_owned();
    // A name can be removed while the image has another one.
    assert_eq!(image(&world, &["rm", &busybox]), format!("{busybox}\n"));
    for word in ["also:1", &digest[7..15]] {
        let error = refused(&world, &["rm", word]);
        assert!(error.contains(word) && error.contains("dev"), "{error}");
    }
    let kept = outcome(&mut container(&world, &["image", "rm", "--all"]));
    assert!(kept.stderr.contains("dev"), "{kept:?}");
    image(&world, &["prune", "--all", "--force"]);
    assert_eq!(image(&world, &["ls", "-q"]), "docker.io/library/also:1\n");
    world.check_disk("dev");
    // Moving the last name to another image leaves this one without a name.
    let plain = lab.image("busybox-plain:1");
    image(&world, &["pull", &plain]);
    image(&world, &["tag", &plain, "also:1"]);
    assert!(image(&world, &["ls"]).contains("<none>"));
    assert!(image(&world, &["ls", "-q"]).contains(&digest));
    image(&world, &["prune"]);
    assert!(refused(&world, &["rm", &digest]).contains("dev"));
    world.check_disk("dev");
    world.stdout(&["rm", "dev"]);
    assert!(!image(&world, &["ls"]).contains("<none>"));
    image(&world, &["rm", "--all"]);
    let freed = image(&world, &["prune"]);
    assert!(freed.contains("1 base"), "{freed}");
    for directory in ["blobs/sha256", "bases", "incoming"] {
        assert_eq!(files(&world, directory), 0, "{directory}");
    }
}

fn prune_removes_unused_images_and_bases(lab: &Lab) {
    let world = World::for_user();
    let (busybox, plain) = (lab.image("busybox:1"), lab.image("busybox-plain:1"));
    machine(&world, &busybox, "one");
    machine(&world, &plain, "two");
    world.stdout(&["rm", "two"]);
    assert_eq!(files(&world, "bases"), 2);
    let freed = image(&world, &["prune"]);
    assert!(
        freed.starts_with("Freed") && freed.contains("(1 base)"),
        "{freed}"
    );
    assert_eq!(image(&world, &["ls", "-q"]).lines().count(), 2);
    assert_eq!(image(&world, &["prune"]), "Nothing to remove\n");
    let freed = image(&world, &["prune", "--all"]);
    assert!(
        freed.starts_with(&plain) && freed.contains("1 image"),
        "{freed}"
    );
    world.check_disk("one");
    // If a disk's base cannot be determined, nothing is removed.
    fs::write(world.bundle("one", "disk.qcow2"), "no disk").unwrap();
    let error = refused(&world, &["prune"]);
    assert!(error.contains("machine \"one\""), "{error}");
    assert_eq!(files(&world, "bases"), 1);
}

fn prune_asks_for_confirmation_on_a_terminal(_: &Lab) {
    let world = World::for_user();
    for (answer, code) in [("n\r", 1), ("y\r", 0)] {
        let mut terminal = Terminal::start(&container(&world, &["image", "prune"]), 24, 80);
        terminal.expect("Continue?");
        terminal.press(answer);
        assert_eq!(terminal.end(), Some(code), "{answer}");
    }
    let save = container(&world, &["image", "save", "any"]);
    let mut terminal = Terminal::start(&save, 24, 80);
    terminal.expect("to a terminal");
    assert_eq!(terminal.end(), Some(1));
}

fn machines_are_created_during_a_prune(lab: &Lab) {
    let world = World::for_root();
    let images = [lab.image("busybox:1"), lab.image("busybox-plain:1")];
    let elsewhere = world.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|threads| {
        // One service creates machines. Another one, with another runtime directory, prunes.
        let pruning = threads.spawn(|| {
            let mut times = 0;
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                let mut prune = container(&world, &["image", "prune", "--all", "--force"]);
                succeed(prune.env("XDG_RUNTIME_DIR", &elsewhere));
                times += 1;
            }
            times
        });
        for (number, image) in images.iter().cycle().take(8).enumerate() {
            machine(&world, image, &format!("m{number}"));
            if number % 3 == 2 {
                world.stdout(&["rename", &format!("m{number}"), &format!("r{number}")]);
            }
            if number == 4 {
                world.stdout(&["rm", "m0", "m1"]);
            }
        }
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(pruning.join().unwrap() > 1);
    });
    for machine in world.bundles() {
        world.check_disk(&machine);
    }
    for image in list(&world).as_array().unwrap() {
        assert_eq!(
            image["platforms"],
            serde_json::json!(["linux/amd64"]),
            "{image}"
        );
    }
}

fn killed_service_keeps_named_images(lab: &Lab) {
    let world = World::for_root();
    let archive = world.path("images.tar").display().to_string();
    let names = [lab.image("debian-systemd:12"), lab.image("busybox:1")];
    image(&world, &["pull", &names[0], &names[1]]);
    image(&world, &["save", &names[0], &names[1], "-o", &archive]);
    for delay in [0, 20, 60, 150, 300, 500, 800] {
        let mut line = container(&world, &["image", "load", "-i", &archive]);
        match delay {
            60 => line = container(&world, &["image", "rm", "--all"]),
            300 => line = container(&world, &["image", "prune", "--all"]),
            _ => {}
        }
        let quiet = line.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = quiet.spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(delay));
        world.processes("service").iter().for_each(|it| it.kill());
        child.wait().unwrap();
        // Every named image is complete.
        for image in list(&world).as_array().unwrap() {
            assert_eq!(
                image["platforms"],
                serde_json::json!(["linux/amd64"]),
                "{image}"
            );
        }
        assert_eq!(files(&world, "incoming"), 0);
    }
    image(&world, &["load", "-i", &archive]);
    image(&world, &["prune"]);
    for name in &names {
        image(&world, &["save", name, "-o", "/dev/null"]);
    }
    // Two manifests, two configurations, two layers.
    assert_eq!(files(&world, "blobs/sha256"), 6);
}

/// podman with a storage directory of this world's.
fn podman(world: &World, arguments: &[&str]) -> Command {
    let store = world.path("podman");
    let mut command = Command::new("podman");
    command
        .args(["--storage-driver", "vfs", "--root"])
        .arg(store.join("root"))
        .arg("--runroot")
        .arg(store.join("run"))
        .args(arguments);
    command
}

fn saved_images_are_loaded_by_other_programs(lab: &Lab) {
    let world = World::for_root();
    let busybox = lab.image("busybox:1");
    image(&world, &["pull", &busybox]);
    image(&world, &["tag", &busybox, "localhost/saved:1"]);
    for format in ["oci", "docker"] {
        let archive = world.path(format).display().to_string();
        let arguments = ["save", "localhost/saved:1", "--format", format];
        image(&world, &[&arguments[..], &["-o", &archive]].concat());
        succeed(&mut podman(&world, &["load", "-i", &archive]));
        let listed = succeed(&mut podman(
            &world,
            &["images", "--format", "{{.Repository}}:{{.Tag}}"],
        ));
        assert!(listed.contains("localhost/saved:1"), "{format}: {listed}");
        let init = succeed(&mut podman(&world, &["inspect", "localhost/saved:1"]));
        assert!(init.contains("/sbin/init"), "{format}: {init}");
        succeed(&mut podman(&world, &["rmi", "localhost/saved:1"]));
        let transport = format!("{format}-archive:{archive}");
        let inspected = succeed(Command::new("skopeo").args(["inspect", &transport]));
        assert!(inspected.contains("amd64"), "{format}: {inspected}");
        let store = world.path("buildah");
        let mut buildah = Command::new("buildah");
        buildah.args(["--storage-driver", "vfs", "--root"]);
        buildah.arg(store.join("root")).arg("--runroot");
        buildah
            .arg(store.join("run"))
            .args(["pull", "-q", &transport]);
        assert_eq!(succeed(&mut buildah).trim().len(), 64, "{format}");
    }
    // The same through a pipe.
    let saved = container(&world, &["image", "save", "localhost/saved:1"])
        .stdout(Stdio::piped())
        .spawn();
    let mut saved = saved.unwrap();
    let mut load = podman(&world, &["load"]);
    succeed(load.stdin(saved.stdout.take().unwrap()));
    assert!(saved.wait().unwrap().success());
}

fn images_saved_by_other_programs_are_loaded(lab: &Lab) {
    let world = World::for_root();
    let (busybox, plain) = (lab.image("busybox:1"), lab.image("busybox-plain:1"));
    let path = |name: &str| world.path(name).display().to_string();
    for (from, name) in [(&busybox, "localhost/one:1"), (&plain, "localhost/two:2")] {
        let (name, archive) = (format!(":{name}"), path("from.tar"));
        let _ = fs::remove_file(&archive);
        succeed(Command::new("skopeo").args([
            "copy",
            "--src-tls-verify=false",
            &format!("docker://{from}"),
            &format!("docker-archive:{archive}{name}"),
        ]));
        succeed(&mut podman(&world, &["load", "-i", &archive]));
    }
    succeed(&mut podman(
        &world,
        &["tag", "localhost/one:1", "localhost/also:1"],
    ));
    let save = |format: &str, more: &[&str]| {
        let archive = path(&format!("{format}.tar"));
        let arguments = ["save", "-q", "--format", format, "-o", &archive];
        succeed(&mut podman(&world, &[&arguments[..], more].concat()));
        archive
    };
    let both = [
        "-m",
        "localhost/one:1",
        "localhost/also:1",
        "localhost/two:2",
    ];
    let docker = save("docker-archive", &both);
    let oci = save("oci-archive", &["localhost/one:1"]);
    let layout = path("layout");
    let target = format!("oci:{layout}:localhost/layout:1");
    let source = format!("oci-archive:{oci}");
    succeed(Command::new("skopeo").args(["copy", &source, &target]));
    let gzip = format!("{docker}.gz");
    succeed(Command::new("sh").args(["-c", &format!("gzip < {docker} > {gzip}")]));
    for (archive, names) in [
        (&docker, "localhost/one:1 localhost/also:1 localhost/two:2"),
        (&gzip, "localhost/one:1 localhost/also:1 localhost/two:2"),
        (&oci, "localhost/one:1"),
        (&layout, "localhost/layout:1"),
    ] {
        let mut loaded: Vec<String> = image(&world, &["load", "-i", archive])
            .lines()
            .map(str::to_owned)
            .collect();
        let mut names: Vec<&str> = names.split(' ').collect();
        loaded.sort();
        names.sort_unstable();
        assert_eq!(loaded, names, "{archive}");
        // The images are used without a registry: none has these names.
        let name = names[0];
        machine(&world, name, "loaded");
        world.check_disk("loaded");
        world.stdout(&["rm", "loaded"]);
        image(&world, &["rm", "--all"]);
    }
    let piped = container(&world, &["image", "load"])
        .stdin(fs::File::open(&docker).unwrap())
        .output();
    assert_eq!(Outcome::from(piped.unwrap()).stdout.lines().count(), 3);
}

fn damaged_archives_leave_nothing(lab: &Lab) {
    let world = World::for_user();
    let busybox = lab.image("busybox:1");
    image(&world, &["pull", &busybox]);
    let archive = world.home().join("image.tar");
    let archive = archive.display().to_string();
    image(&world, &["save", &busybox, "-o", &archive]);
    image(&world, &["rm", &busybox]);
    let whole = fs::read(&archive).unwrap();
    let mut changed = whole.clone();
    changed[whole.len() / 2] ^= 1;
    for (bytes, words) in [
        (&whole[..whole.len() / 2], "ends in the middle"),
        (&changed, "changed or damaged"),
        (b"no archive, but text", "cannot read the archive"),
        (b"", "no images"),
    ] {
        fs::write(&archive, bytes).unwrap();
        let error = refused(&world, &["load", "-i", &archive]);
        assert!(error.contains(words), "{error}");
        assert_eq!(files(&world, "blobs/sha256"), 0);
        assert_eq!(files(&world, "incoming"), 0);
    }
    // Endless input is refused before it ends.
    let mut yes = Command::new("yes").stdout(Stdio::piped()).spawn().unwrap();
    let output = container(&world, &["image", "load"])
        .stdin(yes.stdout.take().unwrap())
        .output();
    let outcome = Outcome::from(output.unwrap());
    assert!(
        outcome.error().contains("cannot read the archive"),
        "{outcome:?}"
    );
    yes.kill().unwrap();
    yes.wait().unwrap();
    let error = refused(&world, &["load", "-i", "/no/such"]);
    assert!(error.contains("/no/such"), "{error}");
    // A failed save does not change the file.
    let error = refused(&world, &["save", "no-such", "-o", &archive]);
    assert!(error.contains("no-such"), "{error}");
    assert_eq!(fs::read(&archive).unwrap(), b"");
    let home = fs::read_dir(Path::new(&archive).parent().unwrap()).unwrap();
    let left: Vec<_> = home.map(|entry| entry.unwrap().file_name()).collect();
    assert!(
        !left
            .iter()
            .any(|name| name.to_string_lossy().contains("save")),
        "{left:?}"
    );
}

fn removed_store_is_recreated(lab: &Lab) {
    let world = World::for_user();
    let busybox = lab.image("busybox:1");
    image(&world, &["pull", &busybox]);
    fs::remove_dir_all(world.path("data/container/images")).unwrap();
    assert_eq!(image(&world, &["ls", "-q"]), "");
    machine(&world, &busybox, "dev");
    world.check_disk("dev");
}

/// Writes a docker archive of an image. Its layer has `files` files, each with an extended
/// attribute of `bytes` bytes that no other file has.
fn save_attributes(world: &World, files: usize, bytes: usize) -> String {
    let layer = world.path("layer.tar");
    let mut tar = tar::Builder::new(BufWriter::new(File::create(&layer).unwrap()));
    for number in 0..files {
        let value = format!("{number:0bytes$}");
        tar.append_pax_extensions([("SCHILY.xattr.user.number", value.as_bytes())])
            .unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        header.set_mode(0o644);
        tar.append_data(&mut header, format!("{number}"), io::empty())
            .unwrap();
    }
    tar.into_inner().unwrap().flush().unwrap();
    let mut digest = Sha256::new();
    io::copy(&mut File::open(&layer).unwrap(), &mut digest).unwrap();
    let config = serde_json::json!({
        "architecture": env::consts::ARCH.replace("x86_64", "amd64").replace("aarch64", "arm64"),
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{:x}", digest.finalize())]},
    });
    let manifest = serde_json::json!([{
        "Config": "config.json", "RepoTags": ["localhost/attributes:1"], "Layers": ["layer.tar"],
    }]);
    let archive = world.path("attributes.tar");
    let mut tar = tar::Builder::new(File::create(&archive).unwrap());
    for (name, content) in [("config.json", &config), ("manifest.json", &manifest)] {
        let content = content.to_string();
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, name, content.as_bytes())
            .unwrap();
    }
    tar.append_path_with_name(&layer, "layer.tar").unwrap();
    tar.finish().unwrap();
    archive.display().to_string()
}

fn memory_for_unpacking_is_bounded(_: &Lab) {
    let world = World::for_root();
    let archive = save_attributes(&world, 6000, 60_000);
    image(&world, &["load", "-i", &archive]);
    machine(&world, "localhost/attributes:1", "dev");
    let [service] = &world.processes("service")[..] else {
        panic!("not one service");
    };
    let peak = service.status("VmHWM").unwrap();
    let peak: u64 = peak.trim_end_matches(" kB").parse().unwrap();
    assert!(peak < 150 << 10, "{peak} KiB");
    world.check_disk("dev");
}

/// Returns count, items in use, size and reclaimable size of a kind.
fn usage(world: &World, kind: &str) -> [u64; 4] {
    let shown = outcome(&mut container(world, &["system", "df", "--format", "json"]));
    let all: Value = serde_json::from_str(&shown.stdout).unwrap();
    let mut all = all.as_array().unwrap().iter();
    let usage = all.find(|usage| usage["kind"] == kind).unwrap();
    ["count", "inUse", "size", "reclaimable"].map(|field| usage[field].as_u64().unwrap())
}

fn disk_usage_is_counted_and_freed(lab: &Lab) {
    let world = World::for_user();
    for kind in ["images", "base-images", "machines", "templates", "kernels"] {
        assert_eq!(usage(&world, kind)[0], 0, "{kind}");
    }
    image(&world, &["pull", &lab.image("debian-systemd:12")]);
    let busybox = lab.image("busybox:1");
    world.create(&busybox, "one", &["--no-boot"]);
    world.stdout(&["clone", "one", "two"]);
    let [count, used, size, unused] = usage(&world, "images");
    assert_eq!((count, used), (2, 1));
    assert!(0 < unused && unused < size, "{unused} {size}");
    let [count, used, size, unused] = usage(&world, "base-images");
    assert_eq!((count, used, unused), (1, 1, 0));
    assert!(size > 0);
    let [count, running, ..] = usage(&world, "machines");
    assert_eq!((count, running), (2, 0));

    let prune = |more: &[&str]| {
        let words = [&["system", "prune", "--force"], more].concat();
        let outcome = outcome(&mut container(&world, &words));
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        outcome.stdout
    };
    assert_eq!(prune(&[]), "Nothing to remove\n");
    assert!(prune(&["--all"]).contains("Freed"));
    let [count, used, _, unused] = usage(&world, "images");
    assert_eq!((count, used, unused), (1, 1, 0));
    world.stdout(&["rm", "one", "two"]);
    assert_ne!(usage(&world, "base-images")[3], 0);
    prune(&["--all"]);
    for kind in ["images", "base-images", "machines"] {
        assert_eq!(usage(&world, kind), [0; 4], "{kind}");
    }
}
