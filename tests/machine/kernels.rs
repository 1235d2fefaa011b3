//! Kernels, and machines inside machines.

use std::{
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use end_to_end::{Fault, Lab, Outcome, Wire, World, eventually};
use sha2::{Digest, Sha256};
use xtask::guest;

crate::tests![
    a_virtual_machine_runs_in_a_machine,
    a_kernel_that_stands_still_is_ended,
    kernels_complain_of_nothing,
    a_distributions_kernel_finds_its_modules,
    kernels_are_chosen_added_and_removed,
    kernels_come_from_other_computers,
    what_a_kernel_lacks_is_named,
    kernels_are_told_more,
    what_runs_here_is_told,
    programs_for_containers_run_on_our_kernel,
];

/// A tiny kernel of the tests' own, made with the C compiler's assembler.
fn tiny_kernel(directory: &Path, options: &[&str]) -> PathBuf {
    let kernel = directory.join("tiny");
    let source = xtask::checkout().join("tests/support/nested.s");
    let made = Command::new("gcc")
        .args(["-nostdlib", "-static", "-no-pie"])
        .args(["-Wl,-Ttext=0x200000", "-Wl,--build-id=none"])
        .args(options)
        .arg(source)
        .arg("-o")
        .arg(&kernel)
        .status();
    assert!(made.unwrap().success());
    kernel
}

/// The host's engine with all that it needs, in a directory.
fn copy_engine(to: &Path) {
    let engine = "/usr/bin/qemu-system-x86_64";
    fs::create_dir_all(to.join("lib")).unwrap();
    let needed = Command::new("ldd").arg(engine).output().unwrap();
    let needed = String::from_utf8(needed.stdout).unwrap();
    let libraries = needed.split_whitespace().filter(|it| it.starts_with('/'));
    for library in libraries {
        let name = Path::new(library).file_name().unwrap();
        fs::copy(library, to.join("lib").join(name)).unwrap();
    }
    fs::copy(engine, to.join("engine")).unwrap();
    for rom in ["qboot.rom", "kvmvapic.bin", "pvh.bin"] {
        let found = ["/usr/share/qemu", "/usr/share/seabios"]
            .iter()
            .map(|place| Path::new(place).join(rom))
            .find(|it| it.exists());
        if let Some(found) = found {
            fs::copy(found, to.join(rom)).unwrap();
        }
    }
}

/// In a machine of an ordinary user, who needs no more than to be in it.
fn a_virtual_machine_runs_in_a_machine(lab: &Lab) {
    let world = World::of_user();
    world.create(&lab.image("busybox:1"), "dev", &[]);
    let flags = "grep -c -w -E 'svm|vmx' /proc/cpuinfo || ls /dev/kvm";
    let without = world.run(&["run", "-n", "dev", flags]);
    assert_eq!(without.stdout, "0\n", "{without:?}");
    assert_ne!(without.code, Some(0), "{without:?}");

    let files = world.home().join("engine");
    copy_engine(&files);
    tiny_kernel(&files, &[]);
    world.stdout(&["set", "-n", "dev", "virtualization=true"]);
    let engine = "cd ~/engine && lib/ld-linux-x86-64.so.2 --library-path lib ./engine -L . -nodefaults -display none -machine q35 -accel kvm -cpu host -m 64 -bios qboot.rom -kernel tiny -serial stdio -device isa-debug-exit,iobase=0xf4 2>&1 | head -1";
    for kernel in guest::kernels().unwrap() {
        let image = kernel.join("vmlinux").display().to_string();
        world.stdout(&["set", "-n", "dev", &format!("kernel={image}")]);
        world.stdout(&["restart", "dev"]);
        assert_eq!(world.inside("dev", "test -w /dev/kvm && id -u"), {
            let uid = world.user().unwrap().uid;
            format!("{uid}\n")
        });
        assert_eq!(
            world.inside("dev", engine),
            "hello from inside\n",
            "{image}"
        );
    }
    // udev leaves it to the user as well.
    let world = lab.user();
    world.create(
        &lab.image("debian-systemd:12"),
        "nested",
        &["--virtualization"],
    );
    world.inside(
        "nested",
        "systemctl is-system-running --wait > /dev/null; test -w /dev/kvm",
    );
    world.stdout(&["rm", "nested"]);
}

fn a_kernel_that_stands_still_is_ended(lab: &Lab) {
    let world = World::of_root();
    let kernel = tiny_kernel(&world.path("home"), &["-Wa,--defsym,STILL=1"]);
    let kernel = kernel.display().to_string();
    let image = lab.image("busybox:1");
    let made = world.run(&["create", &image, "--name", "dev", "--kernel", &kernel]);
    assert_eq!(made.code, Some(1), "{made:?}");
    assert!(made.stderr.contains("stood still"), "{made:?}");
    assert!(
        made.stderr.contains("CONFIG_SERIAL_8250_CONSOLE"),
        "{made:?}"
    );
    assert!(world.engines().is_empty());
}

/// What the kernel warns of, without what it says of an emulated processor's clock on a busy host.
fn complaints(world: &World, machine: &str) -> String {
    let all = world.inside(machine, "dmesg --level=emerg,alert,crit,err,warn");
    let lines = all.lines();
    let real = lines.filter(|line| {
        !line.ends_with("tsc: Unable to calibrate against PIT")
            && !line.contains("hrtimer: interrupt took ")
    });
    real.map(|line| format!("{line}\n")).collect()
}

fn kernels_complain_of_nothing(lab: &Lab) {
    let world = World::of_root();
    let image = lab.image("debian-systemd:12");
    for (number, kernel) in guest::kernels().unwrap().iter().enumerate() {
        let name = format!("dev{number}");
        let path = kernel.join("vmlinux").display().to_string();
        world.create(&image, &name, &["--kernel", &path]);
        world.inside(&name, "systemctl is-system-running --wait > /dev/null");
        assert_eq!(complaints(&world, &name), "", "{path}");
        world.stdout(&["stop", &name]);
        world.stdout(&["set", "-n", &name, "virtualization=true"]);
        world.stdout(&["start", &name]);
        let with_virtualization = complaints(&world, &name);
        assert_eq!(with_virtualization, "", "{path}");
        world.stdout(&["rm", &name]);
    }
}

/// The kernel that Debian has for all computers: a bzImage whose disk and file system are modules.
fn a_distributions_kernel_finds_its_modules(lab: &Lab) {
    let world = World::of_root();
    let package = guest::kernel::newest_of("linux-image-amd64").unwrap();
    let tree = guest::kernel::unpack(&package, &world.path("home")).unwrap();
    let boot = fs::read_dir(tree.join("boot")).unwrap();
    let images = boot.map(|entry| entry.unwrap().path());
    let image = images
        .into_iter()
        .find(|path| path.to_string_lossy().contains("vmlinuz"));
    let image = image.unwrap().display().to_string();
    let release = image.split_once("vmlinuz-").unwrap().1.to_owned();
    world.create(&lab.image("busybox:1"), "dev", &["--kernel", &image]);
    assert_eq!(world.inside("dev", "uname -r"), format!("{release}\n"));
    let home = world.home().display().to_string();
    assert!(
        world
            .inside("dev", &format!("ls {home}"))
            .contains("unpacked")
    );
    // Without its modules it is of no use, and that is known before it boots.
    let modules = tree.join("lib/modules");
    fs::rename(&modules, tree.join("lib/aside")).unwrap();
    world.stdout(&["stop", "dev"]);
    let error = world.error(&["start", "dev"]);
    assert!(
        error.contains("CONFIG_EXT4_FS") && error.contains("lib/modules"),
        "{error}"
    );
    // Back to the default.
    world.stdout(&["set", "-n", "dev", "kernel="]);
    world.stdout(&["start", "dev"]);
    assert_ne!(world.inside("dev", "uname -r"), format!("{release}\n"));
}

fn system(world: &World, arguments: &[&str]) -> Outcome {
    let arguments = [&["system"], arguments].concat();
    world.container(&arguments).output().unwrap().into()
}

fn kernels(world: &World) -> String {
    system(
        world,
        &["kernel", "ls", "--format", "{{ name }}{{ '*' if default }}"],
    )
    .stdout
}

fn kernels_are_chosen_added_and_removed(lab: &Lab) {
    let world = World::of_user();
    let before = kernels(&world);
    assert!(before.contains("debian"), "{before}");
    let debian = guest::kernels().unwrap().pop().unwrap();
    let binary = world.home().join("my-kernel");
    fs::copy(debian.join("vmlinux"), &binary).unwrap();
    // It has its drivers as modules, and they are not to be found; it does not say so.
    let binary = binary.display().to_string();
    let added = system(
        &world,
        &["kernel", "set", "--binary", &binary, "--name", "mine"],
    );
    assert_eq!(
        (added.code, &added.stdout[..]),
        (Some(0), "mine\n"),
        "{added:?}"
    );
    assert!(kernels(&world).contains("mine*"));
    let again = system(
        &world,
        &["kernel", "set", "--binary", &binary, "--name", "mine"],
    );
    assert!(again.error().contains("mine already"), "{again:?}");
    let image = lab.image("busybox:1");
    let made = world.run(&["create", &image, "--name", "dev"]);
    assert_eq!(made.code, Some(1), "{made:?}");
    assert!(made.stderr.contains("CONFIG_VIRTIO_CONSOLE"), "{made:?}");

    let chosen = system(&world, &["kernel", "set", "debian"]);
    assert_eq!(chosen.code, Some(0), "{chosen:?}");
    world.create(&image, "dev", &[]);
    let cloud = world.inside("dev", "uname -r");
    assert!(cloud.contains("cloud"), "{cloud}");
    // What cannot be done for one is done for the other.
    let removed = system(&world, &["kernel", "rm", "debian", "mine"]);
    assert_eq!(
        (removed.code, &removed.stdout[..]),
        (Some(1), "mine\n"),
        "{removed:?}"
    );
    assert!(
        removed.stderr.contains("came with the program"),
        "{removed:?}"
    );
    assert!(!kernels(&world).contains("mine"));
    let gone = system(&world, &["kernel", "set", "mine"]);
    assert!(gone.error().contains("system kernel ls"), "{gone:?}");
    for wrong in [&["kernel", "set"][..], &["kernel", "set", "--tar", "x.tar"]] {
        assert_eq!(system(&world, wrong).code, Some(2));
    }
}

fn kernels_come_from_other_computers(_: &Lab) {
    let world = World::of_root();
    let served = world.path("home/served");
    fs::create_dir_all(served.join("opt/kata")).unwrap();
    let kernel = guest::kernels().unwrap().remove(0).join("vmlinux");
    fs::copy(kernel, served.join("opt/kata/vmlinux-1")).unwrap();
    std::os::unix::fs::symlink("vmlinux-1", served.join("opt/kata/vmlinux.link")).unwrap();
    for (archive, option) in [("k.tar.gz", "--gzip"), ("k.tar.xz", "--xz")] {
        let packed = Command::new("tar")
            .args(["--create", option, "--file", archive, "./opt"])
            .current_dir(&served)
            .env("XZ_OPT", "-0")
            .status();
        assert!(packed.unwrap().success());
    }
    let digest = |archive: &str| {
        let bytes = fs::read(served.join(archive)).unwrap();
        format!("sha256:{:x}", Sha256::digest(bytes))
    };
    let server = serve(&served);
    let url = |archive: &str| format!("http://{server}/{archive}");
    let set = |arguments: &[&str]| system(&world, &[&["kernel", "set"], arguments].concat());

    let member = ["--binary", "opt/kata/vmlinux.link"];
    let without = set(&[&["--tar", &url("k.tar.gz")], &member[..]].concat());
    assert!(without.error().contains("needs --digest"), "{without:?}");
    let wrong = format!("sha256:{}", "0".repeat(64));
    let wrong = set(&[
        &["--tar", &url("k.tar.gz"), "--digest", &wrong],
        &member[..],
    ]
    .concat());
    assert!(wrong.error().contains("nothing was changed"), "{wrong:?}");
    // Nothing of a download that breaks is left.
    let broken = Wire::to(server, Fault::Breaks(1 << 20)).address();
    let broken = format!("http://{broken}/k.tar.gz");
    let broken = set(&[
        &["--tar", &broken, "--digest", &digest("k.tar.gz")],
        &member[..],
    ]
    .concat());
    assert!(broken.error().contains("k.tar.gz"), "{broken:?}");
    assert!(!kernels(&world).contains("vmlinux"));
    // Nor of one that is given up.
    let scratch = world.path("home/scratch");
    fs::create_dir(&scratch).unwrap();
    let stalls = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let stalled = format!("http://{}/vmlinux", stalls.local_addr().unwrap());
    let mut giving_up = world.container(&["system", "kernel", "set", "--binary", &stalled]);
    giving_up
        .args(["--digest", &digest("k.tar.gz")])
        .env("TMPDIR", &scratch);
    let mut giving_up = giving_up.spawn().unwrap();
    let (mut caller, _) = stalls.accept().unwrap();
    // What is answered before it is asked is no answer.
    assert!(caller.read(&mut [0; 4096]).unwrap() > 0);
    caller
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
        .unwrap();
    let left = || fs::read_dir(&scratch).unwrap().count();
    eventually("it is being fetched", || left() == 1);
    let client = rustix::process::Pid::from_child(&giving_up);
    rustix::process::kill_process(client, rustix::process::Signal::INT).unwrap();
    assert_eq!(giving_up.wait().unwrap().code(), Some(130));
    assert_eq!(left(), 0);
    let fetched = set(&[
        &["--tar", &url("k.tar.gz"), "--digest", &digest("k.tar.gz")],
        &member[..],
    ]
    .concat());
    assert_eq!(fetched.stdout, "vmlinux.link\n", "{fetched:?}");
    assert!(kernels(&world).contains("vmlinux.link*"));
    let none = set(&[
        "--tar",
        &url("k.tar.gz"),
        "--digest",
        &digest("k.tar.gz"),
        "--binary",
        "none",
    ]);
    assert!(none.stderr.contains("opt/kata/vmlinux-1"), "{none:?}");
    // By the configuration.
    let unsaid = set(&["--recommended"]);
    assert!(unsaid.error().contains("[kernel]"), "{unsaid:?}");
    world.configure(&format!(
        "[kernel]\nurl = \"{}\"\ndigest = \"{}\"\nbinary = \"opt/kata/vmlinux-1\"\n",
        url("k.tar.xz"),
        digest("k.tar.xz")
    ));
    let recommended = set(&["--recommended"]);
    assert_eq!(recommended.stdout, "vmlinux-1\n", "{recommended:?}");
    assert!(kernels(&world).contains("vmlinux-1*"));
}

/// Serves a directory with busybox' httpd, for as long as the process lives.
fn serve(directory: &Path) -> std::net::SocketAddr {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let mut server = Command::new("busybox");
    server
        .args(["httpd", "-f", "-p", &address.to_string(), "-h"])
        .arg(directory);
    thread::spawn(move || server.status());
    eventually("the server listens", || {
        std::net::TcpStream::connect(address).is_ok()
    });
    address
}

fn what_a_kernel_lacks_is_named(lab: &Lab) {
    let world = World::of_root();
    world.create(&lab.image("busybox:1"), "one", &["--no-boot"]);
    let kernel = tiny_kernel(&world.path("home"), &[]).display().to_string();
    let refused = |file: &str, text: &str| {
        fs::write(world.path("home").join(file), text).unwrap();
        world.error(&["set", "-n", "one", &format!("kernel={kernel}")])
    };
    // As distributions put it beside their kernels.
    let error = refused("config-1.0-tiny", "CONFIG_NET=y\nCONFIG_EXT4_FS=m\n");
    for option in ["CONFIG_DEVTMPFS", "CONFIG_EXT4_FS", "lib/modules/1.0-tiny"] {
        assert!(error.contains(option), "{error}");
    }
    let error = refused("tiny", "no kernel at all");
    assert!(error.contains("neither an ELF file"), "{error}");
    assert!(world.inspect("one").get("kernel").is_none());
    world.configure("[engine]\naccelerator = \"kvm\"\n");
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap();
    if !cpuinfo.contains(" svm") && !cpuinfo.contains(" vmx") {
        let error = world.error(&["start", "one"]);
        assert!(
            error.contains("kvm was asked for") && error.contains("vmx"),
            "{error}"
        );
    }
}

fn kernels_are_told_more(lab: &Lab) {
    let world = lab.unbooted();
    let set = |value: &str| world.run(&["set", "-n", "one", &format!("kernel-args={value}")]);
    assert_eq!(set("quiet container.test=1").code, Some(0));
    assert_eq!(world.inspect("one")["kernelArgs"], "quiet container.test=1");
    assert!(set("a\nb").error().contains("printable"));
    let one = world.stdout(&["run", "-n", "one", "cat /proc/cmdline"]);
    assert!(one.ends_with(" quiet container.test=1\n"), "{one}");
    world.stdout(&["stop", "one"]);
    assert_eq!(set("").code, Some(0));
    assert!(world.inspect("one").get("kernelArgs").is_none());
    let options = ["--no-boot", "--kernel-args", "quiet nosmt"];
    world.create(&lab.image("busybox:1"), "told", &options);
    assert_eq!(world.inspect("told")["kernelArgs"], "quiet nosmt");
    world.stdout(&["rm", "told"]);
}

fn what_runs_here_is_told(lab: &Lab) {
    let world = lab.unbooted();
    let told = system(world, &["info"]).stdout;
    for words in [
        "QEMU emulator version",
        "accelerator",
        "kernel",
        "machines inside",
    ] {
        assert!(told.contains(words), "{told}");
    }
    let json = system(world, &["info", "--format", "json"]).stdout;
    let info: serde_json::Value = serde_json::from_str(&json).unwrap();
    let used = info["accelerator"]["used"].as_str().unwrap();
    let not_used = info["accelerator"]["notUsed"].as_array().unwrap();
    assert!(
        not_used
            .iter()
            .all(|it| it["name"] != used && it["reason"] != "")
    );
    assert_eq!(not_used.len(), 2, "{json}");
    let release = info["kernel"]["release"].as_str().unwrap();
    let inside = lab.root().inside("dev", "uname -r");
    assert_eq!(inside.trim(), release);
}

/// What people run in machines that asks much of a kernel.
fn programs_for_containers_run_on_our_kernel(lab: &Lab) {
    let world = World::of_root();
    let ours = guest::kernels().unwrap().remove(0).join("vmlinux");
    let ours = ours.display().to_string();
    assert!(
        ours.contains("kernels/container"),
        "`make kernel` builds it"
    );
    world.create(&lab.image("debian-systemd:12"), "dev", &["--kernel", &ours]);
    let inside = |line: &str| world.inside("dev", line);
    inside(
        "apt-get update -q > /dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends podman crun netavark aardvark-dns systemd-container bpftrace wireguard-tools iptables busybox-static > /dev/null",
    );
    // A container with a network of its own, whose packets are passed on by rules in the kernel.
    inside(
        "mkdir -p /root-of/bin /root-of/usr /root-of/etc && touch /root-of/etc/os-release && cp /bin/busybox /root-of/bin/ && ln -s busybox /root-of/bin/sh && tar -C /root-of -c . | podman import -q - local/box > /dev/null",
    );
    let line = "podman run --rm local/box /bin/busybox wget -q -O - http://deb.debian.org/debian/dists/bookworm/Release | grep -m 1 Codename";
    assert_eq!(inside(line), "Codename: bookworm\n");
    let line = "systemd-nspawn --quiet --register=no --pipe --directory=/ --volatile=yes /bin/busybox echo in a container";
    assert_eq!(inside(line), "in a container\n");
    let line = "bpftrace -e 'tracepoint:syscalls:sys_enter_openat /comm == \"cat\"/ { printf(\"%s\\n\", str(args->filename)); exit(); }' -c '/bin/cat /etc/hostname' | grep -c .";
    assert!(inside(line).trim().parse::<u32>().unwrap() > 0);
    let line = "ip link add wg0 type wireguard && wg genkey > /tmp/key && wg set wg0 private-key /tmp/key listen-port 51820 && ip addr add 10.7.0.1/24 dev wg0 && ip link set wg0 up && wg show wg0 listen-port";
    assert_eq!(inside(line), "51820\n");
    // A file system in a file, and none but the devices that it needs.
    inside(
        "truncate -s 8M /disk && mkfs.ext4 -q /disk && mount -o loop /disk /mnt && touch /mnt/file && umount /mnt",
    );
    let cards = inside("unshare --net ip -o link; ip -o link show type dummy");
    assert!(
        cards.starts_with("1: lo:") && cards.lines().count() == 1,
        "{cards}"
    );
    // What containers of ordinary users need.
    inside("useradd -m someone && su someone -c 'exec 3<>/dev/fuse 4<>/dev/net/tun'");
}
