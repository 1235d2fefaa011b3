//! Starting machines from templates.

use std::{
    fs::{self, File},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    process::Stdio,
    thread::sleep,
    time::{Duration, Instant, UNIX_EPOCH},
};

use end_to_end::{Lab, World};
use serde_json::{Value, json};

crate::declare::tests![machines_start_from_a_template];

/// Timeout for a template, which is made with a low priority.
const TIMEOUT: Duration = Duration::from_secs(900);

/// Prints what must differ between two machines, a line each: boot id, machine id, random numbers
/// of the kernel, MAC address, addresses.
const IDENTITY: &str = "cat /proc/sys/kernel/random/boot_id /etc/machine-id; \
     head -c 16 /dev/urandom | md5sum; cat /proc/sys/kernel/random/uuid; \
     cat /sys/class/net/eth0/address; \
     ip -o -4 address show eth0 | awk '{ print $4 }'; \
     ip -o -6 address show eth0 scope link | awk '{ print $4 }'";

/// Returns the files with the memory of this world's templates.
fn templates(world: &World) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(world.path("data/container/templates")) else {
        return Vec::new();
    };
    let memories = entries.map(|entry| entry.unwrap().path().join("memory"));
    let is_published = |memory: &PathBuf| memory.with_file_name("template.json").exists();
    memories.filter(is_published).collect()
}

/// Waits until there is a template, and returns the file with its memory.
fn await_template(world: &World) -> PathBuf {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        if let Some(memory) = templates(world).pop() {
            return memory;
        }
        let log = world.path("data/container/templates/maker.log");
        assert!(
            Instant::now() < deadline,
            "no template was made: {:?}",
            fs::read_to_string(log)
        );
        sleep(Duration::from_millis(200));
    }
}

/// Returns why a machine was not started from a template.
fn reason(world: &World, machine: &str) -> String {
    let boot = world.inspect(machine)["boot"].take();
    assert_eq!(boot["kind"], "cold", "{boot}");
    boot["reason"].as_str().unwrap().to_owned()
}

/// Changes a byte of a file.
fn damage(file: &Path) {
    let file = File::options().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    let at = file.metadata().unwrap().len() - 1000;
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[!byte[0]], at).unwrap();
}

/// Runs a line in each machine, in all of them at once. Returns the outputs.
fn at_once<const COUNT: usize>(
    world: &World,
    machines: [&str; COUNT],
    line: &str,
) -> [String; COUNT] {
    let started = machines.map(|machine| {
        let mut run = world.machine(&["run", "-n", machine, line]);
        // Not every image has every file that the lines print.
        let run = run.stdout(Stdio::piped()).stderr(Stdio::null());
        run.spawn().unwrap()
    });
    started.map(|run| {
        let output = run.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    })
}

/// Starts machines from one template at the same time, and resumes machines at the same time.
fn several_at_once(world: &World, image: &str) {
    let machines = ["a", "b", "c", "d"];
    let mounted = world.home().join("mounted-from-a-template");
    world.on_host(&["mkdir", &mounted.display().to_string()]);
    fs::write(mounted.join("name"), "mounted").unwrap();
    let mount = format!("{}:/srv/mounted", mounted.display());
    for machine in machines {
        world.create(image, machine, &["--no-boot", "--mount", &mount]);
    }
    let identities = at_once(world, machines, IDENTITY);
    let mut lines: Vec<&str> = identities.iter().flat_map(|it| it.lines()).collect();
    let count = lines.len();
    lines.sort_unstable();
    lines.dedup();
    assert_eq!(lines.len(), count, "{identities:?}");
    for machine in machines {
        let boot = world.inspect(machine)["boot"].take();
        assert_eq!(boot, json!({"kind": "template"}), "{machine}");
    }
    let name = "cat /srv/mounted/name";
    assert_eq!(at_once(world, machines, name), ["mounted"; 4]);
    world.stdout(&["stop", "d"]);
    let resumed = ["a", "b", "c"];
    let boot_id = "cat /proc/sys/kernel/random/boot_id; head -c 16 /dev/urandom | md5sum";
    let before = at_once(world, resumed, boot_id);
    world.stdout(&["suspend", "a", "b", "c"]);
    let after = at_once(world, resumed, boot_id);
    for (machine, (before, after)) in resumed.iter().zip(before.iter().zip(&after)) {
        assert_eq!(world.inspect(machine)["boot"]["kind"], "resumed");
        assert_eq!(before.lines().next(), after.lines().next());
        assert_ne!(before, after, "the random numbers differ");
    }
    assert_eq!(at_once(world, resumed, name), ["mounted"; 3]);
    world.stdout(&["rm", "a", "b", "c", "d"]);
}

fn machines_start_from_a_template(lab: &Lab) {
    let world = World::for_user().with_templates();
    let image = lab.image("debian-systemd:12");
    world.create(&image, "one", &["--disk-size", "3G"]);
    let first = reason(&world, "one");
    assert!(first.contains("no template"), "{first}");
    world.inside("one", "echo home > ~/from-one; echo disk | sudo tee /kept");
    let memory = await_template(&world);
    let mode = fs::metadata(&memory).unwrap().mode();
    assert_eq!(mode & 0o777, 0o600, "only the user can read it");

    // The same machine with a larger disk and another name.
    world.stdout(&["stop", "one"]);
    world.stdout(&["set", "-n", "one", "disk=5G"]);
    world.stdout(&["rename", "one", "first"]);
    let shown = world.inside("first", "cat ~/from-one /kept; hostname");
    assert_eq!(shown, "home\ndisk\nfirst\n");
    let from_template = json!({"kind": "template"});
    assert_eq!(world.inspect("first")["boot"], from_template);
    let size = world.inside("first", "df -k --output=size / | tail -n 1");
    let size: u64 = size.trim().parse().unwrap();
    assert!(size > 4 << 20, "the file system has {size} KiB");
    let log = world.stdout(&["logs", "--boot", "first"]);
    let (template, _) = log.split_once("started from a template").unwrap();
    assert!(template.contains("Linux version"), "{log}");
    let clock: u64 = world.inside("first", "date +%s").trim().parse().unwrap();
    let host = UNIX_EPOCH.elapsed().unwrap().as_secs();
    assert!(clock.abs_diff(host) < 60, "{clock} {host}");

    // A new machine beside it, from the same template.
    world.create(&image, "second", &[]);
    assert_eq!(world.inspect("second")["boot"], from_template);
    let identity = |machine| world.inside(machine, IDENTITY);
    let (first, second) = (identity("first"), identity("second"));
    assert_eq!(first.lines().count(), 7, "{first}");
    assert_eq!(second.lines().count(), 7, "{second}");
    for (first, second) in first.lines().zip(second.lines()) {
        assert_ne!(first, second);
    }
    assert_eq!(world.inside("second", "cat ~/from-one"), "home\n");
    let greeting = "timeout 100 bash -c 'until exec 3<>/dev/tcp/first/22; do sleep 1; done; \
                    head -c 4 <&3' 2>/dev/null";
    assert_eq!(world.inside("second", greeting), "SSH-");

    // It is shown, and in use.
    let container = |words: &[&str]| {
        let output = world.container(words).output().unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
        output.stdout
    };
    let usage = container(&["system", "df", "--format", "json"]);
    let usage: Value = serde_json::from_slice(&usage).unwrap();
    let mut usage = usage.as_array().unwrap().iter();
    let shown = usage.find(|usage| usage["kind"] == "templates").unwrap();
    assert_eq!((&shown["count"], &shown["inUse"]), (&json!(1), &json!(1)));
    assert!(shown["size"].as_u64().unwrap() > 1 << 20, "{shown}");
    container(&["system", "prune", "--force"]);
    assert!(memory.exists());

    world.stdout(&["stop", "first", "second"]);
    several_at_once(&world, &lab.image("busybox:1"));

    // A damaged template is removed, and the kernel boots.
    damage(&memory);
    let modified = || fs::metadata(&memory).and_then(|it| it.modified()).ok();
    let before = modified();
    world.inside("second", "true");
    let damaged = reason(&world, "second");
    let log = fs::read_to_string(world.bundle("second", "runtime.log")).unwrap();
    assert!(damaged.contains("damaged"), "{damaged}\n{log}");
    // Another may have been made since.
    assert_ne!(modified(), before);

    world.stdout(&["stop", "second"]);
    world.configure("[machine]\ntemplates = false\n");
    world.inside("second", "true");
    let disabled = reason(&world, "second");
    assert!(disabled.contains("config.toml"), "{disabled}");
}
