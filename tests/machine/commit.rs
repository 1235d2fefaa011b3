//! Commits: images from machines, and machines from these images.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::symlink,
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread::sleep,
    time::Duration,
};

use end_to_end::{Lab, Outcome, World, eventually};
use serde_json::Value;
use tempfile::TempDir;
use xtask::registry::Registry;

crate::declare::tests![
    committed_image_has_every_change,
    running_and_stopped_machines_and_committed_images_are_committed,
    another_user_creates_a_machine_from_a_committed_image,
    interrupted_commit_leaves_nothing,
    invalid_commits_are_refused,
];

/// Repository of a registry that does not exist, so the image is found in the local store only.
const REPOSITORY: &str = "127.0.0.1:1/tools";

/// Script that makes every kind of change to files.
const CHANGES: &str = r#"set -e
echo new >/etc/new
echo changed >>/etc/profile
chmod 4751 /usr/bin/env; chown 12345:54321 /usr/bin/env
rm /etc/issue; rm -r /usr/share/doc/bash
rm /etc/issue.net; mkdir /etc/issue.net; echo below >/etc/issue.net/below
rm -r /usr/share/doc/tar; echo file >/usr/share/doc/tar
rm -r /usr/share/doc/sed; mkdir /usr/share/doc/sed; echo new >/usr/share/doc/sed/new
mv /usr/share/common-licenses /usr/share/moved
mkdir /opt/d; cd /opt/d
ln /etc/new linked; ln /bin/cat more-of-cat; ln -s ../../etc/new symlink
ln -s "$(printf '%0300d' 1)" long-symlink
mknod character c 1 3; mknod block b 300 70000; mkfifo fifo
truncate -s 64M sparse; printf x | dd of=sparse bs=1 seek=33M conv=notrunc status=none
echo x >old; touch -d '2001-02-03 04:05:06.123456789' old
echo x >older; touch -d '1960-01-01 00:00:00.5' older
echo x >future; touch -d '2300-01-01' future
echo x >"$(printf 'odd-\377')"; echo x >"$(printf '%0255d' 1)"
mkdir -p "$(printf '%0200d' 1)/$(printf '%0200d' 2)"; echo deep >"$(echo 0*1/0*2)/file"
mkdir -m 1777 sticky; mkdir -m 2750 setgid
cp /bin/true capable
perl -e 'sub set { my ($file, $name, $value) = @_;
    syscall(189, $file, $name, $value, length $value, 0) == 0 or die "$name: $!" }
  set("capable", "security.capability", pack("VVVVV", 0x02000001, 1<<10, 0, 0, 0));
  set("old", "user.lines", "1\n=2\0");
  set("older", "system.posix_acl_access",
    pack("VvvVvvVvvVvvVvvV", 2, 1, 6, -1, 2, 4, 99, 4, 4, -1, 16, 4, -1, 32, 4, -1));'
mkdir bulk; i=0; while [ $i -lt 3000 ]; do echo $i >bulk/$i; i=$((i + 1)); done
perl -e 'use Socket; socket(S, PF_UNIX, SOCK_STREAM, 0); bind(S, sockaddr_un("socket"))'
"#;

/// Script that lists a directory tree, without the files that match a pattern. Each line has a
/// path, a tab, and a fact about the file: its attributes, content, extended attributes, or hard
/// links.
const INVENTORY: &str = r#"cd "$1"; without=$2; export LC_ALL=C
found() {
	find . -xdev -mindepth 1 \( -path ./proc -o -path ./sys -o -path ./dev -o -path ./run \
		-o -path ./var/tmp -o -path "$without" -o -type s \) -prune -o "$@"
}
found -printf '%p\tis %y %m %U:%G %T@ %l\n'
found -type f -print0 | xargs -0 sha256sum | sed 's/^\\\{0,1\}\([0-9a-f]*\) ..\(.*\)/.\2\tholds \1/; s/^\.\././'
found -print0 | perl -e '$/ = "\0"; while (<STDIN>) {
	chomp; my @s = lstat; my $x = ""; my $names = "\0" x 65536;
	my $n = syscall(195, $_, $names, 65536);
	for my $name (sort split /\0/, $n > 0 ? substr($names, 0, $n) : "") {
		my $value = "\0" x 65536; my $m = syscall(192, $_, $name, $value, 65536);
		$x .= " $name=" . unpack("H*", substr($value, 0, $m));
	}
	my $type = $s[2] & 0170000;
	my $size = $type == 0100000 ? $s[7] : 0;
	my $device = $type == 0020000 || $type == 0060000 ? $s[6] : 0;
	push @{$same{$s[1]}}, $_ if $type != 0040000 && $s[3] > 1;
	print "$_\thas $size $device$x\n";
}
for (values %same) { my @names = sort @$_; print "$names[0]\tis one with @names\n" }'
"#;

/// Files that differ between machines of the same image.
const MACHINE_FILES: [&str; 6] = [
    "./etc/hostname",
    "./etc/hosts",
    "./etc/resolv.conf",
    "./etc/machine-id",
    "./lost+found",
    "./var/host-services",
];

/// Index of the kernel's modules, which each machine has of its own kernel and no image.
const MODULES: &str = "./usr/lib/modules/*";

type Facts = BTreeMap<String, Vec<String>>;

/// Parses the output of [`INVENTORY`] into the facts of each path.
fn facts(inventory: &str) -> Facts {
    let mut facts = Facts::new();
    for line in inventory.lines() {
        let (path, fact) = line.split_once('\t').unwrap();
        let of_path = facts.entry(path.to_owned()).or_default();
        of_path.push(fact.to_owned());
    }
    facts.values_mut().for_each(|facts| facts.sort());
    facts
}

fn facts_of_machine(world: &World, machine: &str) -> Facts {
    let script = world.home().join("inventory");
    fs::write(&script, INVENTORY).unwrap();
    let line = format!("sh {} / '{MODULES}'", script.display());
    facts(&world.stdout(&["run", "-n", machine, "--root", &line]))
}

fn assert_same(of: &str, expected: &Facts, found: &Facts) {
    let paths: std::collections::BTreeSet<&String> = expected.keys().chain(found.keys()).collect();
    let different: Vec<String> = paths
        .into_iter()
        .filter(|path| {
            !MACHINE_FILES.contains(&path.as_str()) && expected.get(*path) != found.get(*path)
        })
        .map(|path| format!("{path}: {:?} and {:?}", expected.get(path), found.get(path)))
        .collect();
    assert!(
        different.is_empty(),
        "{of}: {} differ:\n{}",
        different.len(),
        different[..different.len().min(40)].join("\n")
    );
}

/// buildah with a storage directory of its own.
struct Buildah {
    storage: TempDir,
}

impl Buildah {
    fn new() -> Buildah {
        // buildah derives image names from paths, which must therefore be lower case.
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let storage = tempfile::Builder::new()
            .prefix(&format!("buildah-{}-{number}", std::process::id()))
            .rand_bytes(0)
            .tempdir_in("/var/tmp");
        Buildah {
            storage: storage.unwrap(),
        }
    }

    fn run(&self, arguments: &[&str]) -> String {
        let mut buildah = Command::new("buildah");
        buildah.args(["--storage-driver", "vfs"]);
        buildah
            .arg("--root")
            .arg(self.storage.path().join("storage"));
        buildah
            .arg("--runroot")
            .arg(self.storage.path().join("run"));
        let outcome = Outcome::from(buildah.args(arguments).output().unwrap());
        assert_eq!(outcome.code, Some(0), "{arguments:?}: {outcome:?}");
        outcome.stdout.trim().to_owned()
    }

    /// Pulls an image from a world's image store.
    fn pull(&self, world: &World, reference: &str) -> String {
        let store = self.storage.path().join("store");
        let _ = fs::remove_file(&store);
        symlink(world.path("data/container/images"), &store).unwrap();
        self.run(&[
            "pull",
            "-q",
            &format!("oci:{}:{reference}", store.display()),
        ])
    }

    fn push(&self, image: &str, registry: &Registry, name: &str) -> String {
        let reference = format!("{}/{name}", registry.address());
        let to = format!("docker://{reference}");
        self.run(&["push", "-q", "--tls-verify=false", image, &to]);
        reference
    }

    /// Returns the facts of an image, as buildah unpacks it.
    fn facts(&self, image: &str) -> Facts {
        let container = self.run(&["from", "--pull-never", image]);
        let root = self.run(&["mount", &container]);
        let inventory = Command::new("sh")
            .args(["-c", INVENTORY, "sh", &root, ""])
            .output()
            .unwrap();
        self.run(&["rm", &container]);
        facts(&String::from_utf8_lossy(&inventory.stdout))
    }
}

/// Commits a machine and returns the image's digest, which is printed after the reference.
fn commit(world: &World, arguments: &[&str]) -> String {
    let printed = world.stdout(&[&["commit"], arguments].concat());
    let (reference, digest) = printed.trim().split_once('@').unwrap();
    assert!(arguments.contains(&reference), "{printed}");
    digest.to_owned()
}

fn document(world: &World, digest: &str) -> Value {
    let blobs = world.path("data/container/images/blobs");
    let text = fs::read(blobs.join(digest.replace(':', "/"))).unwrap();
    serde_json::from_slice(&text).unwrap()
}

fn layers(world: &World, digest: &str) -> Vec<Value> {
    let manifest = document(world, digest);
    manifest["layers"].as_array().unwrap().clone()
}

fn committed_image_has_every_change(lab: &Lab) {
    let world = World::for_root();
    world.create(&lab.image("debian-plain:12"), "one", &[]);
    fs::write(world.home().join("changes"), CHANGES).unwrap();
    let script = world.home().join("changes").display().to_string();
    world.stdout(&["run", "-n", "one", "--root", "sh", &script]);
    let expected = facts_of_machine(&world, "one");
    let capable = expected["./opt/d/capable"].concat();
    assert!(capable.contains("security.capability"), "{capable}");
    let reference = format!("{REPOSITORY}:1");
    let digest = commit(&world, &["one", &reference]);
    world.stdout(&["stop", "one"]);
    world.check_disk("one");

    let buildah = Buildah::new();
    let image = buildah.pull(&world, &reference);
    // buildah keeps no access control lists and no times before 1970 or after 2262.
    let (mut without, mut found) = (expected.clone(), buildah.facts(&image));
    for path in ["./opt/d/older", "./opt/d/future"] {
        assert!(without.remove(path).is_some() && found.remove(path).is_some());
    }
    assert_same("buildah", &without, &found);

    let storage = tempfile::tempdir().unwrap();
    let registry = Registry::start(storage.path()).unwrap();
    let pushed = buildah.push(&image, &registry, "tools:1");
    let elsewhere = World::for_root();
    elsewhere.create(&pushed, "two", &[]);
    // A machine's first boot writes the first ones, and root's home is another directory. Files
    // that it writes change the times of their directories.
    let (mut without, mut found) = (expected, facts_of_machine(&elsewhere, "two"));
    let written = ["./etc/localtime", "./etc/timezone", "./etc/passwd"];
    let parents = ["./etc", "./usr/lib/modules", "./var"];
    for path in written.into_iter().chain(parents) {
        assert!(without.remove(path).is_some() && found.remove(path).is_some());
    }
    assert_same("machine of another world", &without, &found);
    assert_eq!(layers(&world, &digest).len(), 2);
}

fn running_and_stopped_machines_and_committed_images_are_committed(lab: &Lab) {
    let world = World::for_root();
    world.create(&lab.image("debian-systemd:12"), "one", &[]);
    // systemd would enable a unit like this again if it took the boot for a first one.
    world.inside("one", "systemctl disable e2scrub_reap.service");
    world.inside("one", "echo 1 >/etc/first; rm -r /usr/share/doc/git");
    let running = format!("{REPOSITORY}:running");
    let options = [
        "--message",
        "with words",
        "--author",
        "Ann",
        "--change",
        "ENV A=b",
    ];
    let digest = commit(&world, &[&["one", &running][..], &options].concat());
    let state = "systemctl is-system-running --wait || \
                 { systemctl --failed; journalctl --boot --no-pager --unit 'session-*'; }";
    let state = world.inside("one", state);
    assert_eq!(state, "running\n");
    let config = document(&world, &digest)["config"]["digest"].take();
    let config = document(&world, config.as_str().unwrap());
    let event = config["history"].as_array().unwrap().last().unwrap();
    assert_eq!(event["comment"], "with words");
    assert_eq!(event["author"], "Ann");

    world.inside("one", "echo 2 >/etc/second");
    world.stdout(&["stop", "one"]);
    let log = fs::read(world.bundle("one", "boot.log")).unwrap();
    let stopped = format!("{REPOSITORY}:stopped");
    let digest = commit(&world, &["one", &stopped, "--compression", "zstd"]);
    let of_stopped = layers(&world, &digest);
    assert!(
        of_stopped[1]["mediaType"]
            .as_str()
            .unwrap()
            .ends_with("+zstd")
    );
    assert!(world.is_stopped("one"));
    assert!(world.engines().is_empty());
    assert_eq!(fs::read(world.bundle("one", "boot.log")).unwrap(), log);
    world.check_disk("one");

    world.create(&stopped, "two", &[]);
    let seen = "cat /etc/first /etc/second /etc/hostname; ls -d /usr/share/doc/git 2>&1; \
                systemctl is-enabled e2scrub_reap.service; systemctl is-system-running --wait";
    let seen = world.stdout(&["run", "-n", "two", "--root", seen]);
    assert!(seen.starts_with("1\n2\ntwo\n"), "{seen}");
    assert!(seen.contains("No such file"), "{seen}");
    assert!(seen.ends_with("disabled\nrunning\n"), "{seen}");
    let id_of = |machine| world.inside(machine, "cat /etc/machine-id");
    assert_ne!(id_of("one"), id_of("two"));

    world.inside("two", "echo 3 >/etc/third; rm /etc/first");
    let again = format!("{REPOSITORY}:again");
    let digest = commit(&world, &["two", &again]);
    let of_again = layers(&world, &digest);
    assert_eq!(of_again.len(), 3);
    assert_eq!(of_again[..2], of_stopped[..]);
    let buildah = Buildah::new();
    let image = buildah.pull(&world, &again);
    let found = buildah.facts(&image);
    assert!(found.contains_key("./etc/third") && found.contains_key("./etc/second"));
    assert!(!found.contains_key("./etc/first"));
    assert!(!found.contains_key("./usr/share/doc/git"));
}

fn another_user_creates_a_machine_from_a_committed_image(lab: &Lab) {
    let world = World::for_user();
    let ann = world.user().unwrap().name.clone();
    world.create(
        &lab.image("debian-systemd:12"),
        "one",
        &["--home-mount", "none"],
    );
    world.inside("one", "echo mine >~/file; sudo touch /etc/ours");
    let reference = format!("{REPOSITORY}:1");
    commit(&world, &[&reference]);
    let storage = tempfile::tempdir().unwrap();
    let registry = Registry::start(storage.path()).unwrap();
    let buildah = Buildah::new();
    let pushed = buildah.push(&buildah.pull(&world, &reference), &registry, "tools:1");

    let of_bob = World::for_user();
    let bob = of_bob.user().unwrap().name.clone();
    assert_ne!(ann, bob);
    of_bob.create(&pushed, "two", &[]);
    let seen = format!(
        "whoami; sudo -n whoami; sudo -n cat /home/{ann}/file; ls /etc/ours; \
         sudo -n stat -c %u /home/{ann}"
    );
    let uid = world.user().unwrap().uid;
    assert_eq!(
        of_bob.inside("two", &seen),
        format!("{bob}\nroot\nmine\n/etc/ours\n{uid}\n")
    );

    world.create(&reference, "same", &["--home-mount", "none"]);
    let seen = "whoami; sudo -n whoami; cat ~/file; touch ~/new; grep -c \"^$USER:\" /etc/passwd";
    assert_eq!(
        world.inside("same", seen),
        format!("{ann}\nroot\nmine\n1\n")
    );
}

fn interrupted_commit_leaves_nothing(lab: &Lab) {
    let world = World::for_root();
    world.create(&lab.image("busybox:1"), "dev", &[]);
    // Packing this takes long enough for the interruption.
    world.inside(
        "dev",
        "dd if=/dev/urandom of=/big bs=1M count=150 2>/dev/null",
    );
    let incoming = world.path("data/container/images/incoming");
    let files = || fs::read_dir(&incoming).unwrap().count();
    let index = || fs::read(world.path("data/container/images/index.json")).unwrap();
    let before = index();
    let reference = format!("{REPOSITORY}:1");
    let start_commit = || {
        let mut command = world.machine(&["commit", "dev", &reference]);
        let command = command.stderr(Stdio::null()).stdout(Stdio::null());
        let command = command.spawn().unwrap();
        eventually("the layer is written", || files() > 0);
        command
    };

    let mut command = start_commit();
    let pid = rustix::process::Pid::from_child(&command);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(command.wait().unwrap().code(), Some(130));
    eventually("the incomplete layer is removed", || files() == 0);
    assert_eq!(world.inside("dev", "echo running"), "running\n");

    let mut command = start_commit();
    world.stdout(&["stop", "dev"]);
    assert_eq!(command.wait().unwrap().code(), Some(1));
    eventually("the incomplete layer is removed", || files() == 0);
    world.check_disk("dev");

    // The service is killed while the stopped machine is booted to read its disk.
    let mut command = start_commit();
    for service in world.processes("service") {
        service.kill();
    }
    command.wait().unwrap();
    assert_eq!(world.inside("dev", "echo booted"), "booted\n");
    assert_eq!(index(), before);
    assert_eq!(files(), 0);

    // A process that writes all the time is paused, so the image has a consistent state.
    world.inside(
        "dev",
        "rm /big; (while :; do date +%s >/tick; done) >/dev/null 2>&1 &",
    );
    sleep(Duration::from_secs(1));
    commit(&world, &["dev", &reference]);
    commit(&world, &["dev", &reference, "--no-pause"]);
}

fn invalid_commits_are_refused(lab: &Lab) {
    let world = lab.unbooted();
    let error = |arguments: &[&str]| world.error(&[&["commit"], arguments].concat());
    assert!(error(&["none", "tools:1"]).contains("none"));
    assert!(error(&["Tools:1"]).contains("invalid image reference"));
    let digest = format!("tools@sha256:{}", "0".repeat(64));
    assert!(error(&[&digest]).contains("digest"));
    assert!(error(&["tools:1", "--change", "RUN ls"]).contains("invalid change"));
    let outcome = world.run(&["commit"]);
    assert_eq!(outcome.code, Some(2), "{outcome:?}");

    // A machine that was never booted has no changes.
    let printed = world.stdout(&["commit", "one", "127.0.0.1:1/same:1"]);
    let (_, digest) = printed.trim().split_once('@').unwrap();
    let manifest = document(world, digest);
    let layers = manifest["layers"].as_array().unwrap();
    assert!(layers.last().unwrap()["size"].as_u64().unwrap() < 200);
}
