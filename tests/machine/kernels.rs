//! Kernels, and virtual machines inside machines.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command},
    thread,
};

use end_to_end::{Fault, Lab, Outcome, TcpRelay, World, eventually};
use sha2::{Digest, Sha256};
use xtask::{guest, ports::unused_address};

/// Imports the image `local/box`, which has only busybox, into podman's storage.
pub(crate) const IMPORT_BOX: &str = "mkdir -p /root-of/bin /root-of/usr /root-of/etc && touch /root-of/etc/os-release && cp /bin/busybox /root-of/bin/ && ln -s busybox /root-of/bin/sh && tar -C /root-of -c . | podman import -q - local/box > /dev/null";

crate::declare::tests![
    virtual_machine_runs_in_a_machine,
    hanging_kernel_is_ended,
    kernels_log_no_warnings,
    distribution_kernel_finds_its_modules,
    kernels_are_added_selected_and_removed,
    kernels_are_downloaded,
    missing_kernel_options_are_named,
    kernel_arguments_are_passed_on,
    system_information_is_shown,
    container_programs_run_on_our_kernel,
];

/// Assembles the tests' own tiny kernel.
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

/// Copies a program with its libraries into a directory, as `name` and `lib`.
pub(crate) fn copy_program(program: &str, name: &str, to: &Path) {
    fs::create_dir_all(to.join("lib")).unwrap();
    let needed = Command::new("ldd").arg(program).output().unwrap();
    let needed = String::from_utf8(needed.stdout).unwrap();
    let libraries = needed.split_whitespace().filter(|it| it.starts_with('/'));
    for library in libraries {
        let name = Path::new(library).file_name().unwrap();
        fs::copy(library, to.join("lib").join(name)).unwrap();
    }
    fs::copy(program, to.join(name)).unwrap();
}

/// Copies QEMU with its libraries and firmware into a directory.
fn copy_engine(to: &Path) {
    copy_program("/usr/bin/qemu-system-x86_64", "engine", to);
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

/// An ordinary user needs no group or permission in the machine.
fn virtual_machine_runs_in_a_machine(lab: &Lab) {
    let world = World::for_user();
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
    // udev does not take the user's access to /dev/kvm away.
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

fn hanging_kernel_is_ended(lab: &Lab) {
    let world = World::for_root();
    let kernel = tiny_kernel(&world.path("home"), &["-Wa,--defsym,HANG=1"]);
    let kernel = kernel.display().to_string();
    let image = lab.image("busybox:1");
    let made = world.run(&["create", &image, "--name", "dev", "--kernel", &kernel]);
    assert_eq!(made.code, Some(1), "{made:?}");
    assert!(made.stderr.contains("hung during the boot"), "{made:?}");
    assert!(
        made.stderr.contains("CONFIG_SERIAL_8250_CONSOLE"),
        "{made:?}"
    );
    assert!(world.engines().is_empty());
}

/// Parts of warnings about the time that an emulated processor takes on a busy host.
const TIME_WARNINGS: [&str; 21] = [
    "APIC calibration not consistent with PM-Timer",
    "APIC frequency too slow",
    "APIC timer disabled due to verification failure",
    "lapic is not functional.",
    "..MP-BIOS bug: 8254 timer not connected",
    "Could not switch to high resolution mode on CPU ",
    "CE: Reprogramming failure",
    " increased min_delta_ns to ",
    "clocksource: ",
    "tsc: ",
    "TSC found unstable after boot",
    "TSC synchronization [CPU#",
    " cycles TSC warp between CPUs",
    "hpet: Lost ",
    "hrtimer: interrupt took ",
    "perf: interrupt took too long",
    " took too long to run: ",
    " hogged CPU for >",
    "sched: RT throttling activated",
    "sched: DL replenish lagged too much",
    "Time jumped backwards",
];

/// Kernel parameters without reports of tasks and processors that make no progress for a while.
/// Such a report has many lines.
const NO_STALL_REPORTS: &str = "nowatchdog rcupdate.rcu_cpu_stall_suppress=1";

/// Returns the kernel's warnings, except those about time.
fn warnings(world: &World, machine: &str) -> String {
    let all = world.inside(machine, "dmesg --level=emerg,alert,crit,err,warn");
    let is_about_time = |line: &str| TIME_WARNINGS.iter().any(|part| line.contains(part));
    let lines = all.lines();
    let real = lines.filter(|line| !is_about_time(line));
    real.map(|line| format!("{line}\n")).collect()
}

fn kernels_log_no_warnings(lab: &Lab) {
    let world = World::for_root();
    let image = lab.image("debian-systemd:12");
    for (number, kernel) in guest::kernels().unwrap().iter().enumerate() {
        let name = format!("dev{number}");
        let path = kernel.join("vmlinux").display().to_string();
        let options = ["--kernel", &path, "--kernel-args", NO_STALL_REPORTS];
        world.create(&image, &name, &options);
        world.inside(&name, "systemctl is-system-running --wait > /dev/null");
        assert_eq!(warnings(&world, &name), "", "{path}");
        world.stdout(&["stop", &name]);
        world.stdout(&["set", "-n", &name, "virtualization=true"]);
        world.stdout(&["start", &name]);
        let with_virtualization = warnings(&world, &name);
        assert_eq!(with_virtualization, "", "{path}");
        world.stdout(&["rm", &name]);
    }
}

/// Debian's generic kernel: a bzImage with the drivers of disk and file system as modules.
fn distribution_kernel_finds_its_modules(lab: &Lab) {
    let world = World::for_root();
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
    // Without its modules it cannot mount the disk, which is detected before it boots.
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

fn kernels_are_added_selected_and_removed(lab: &Lab) {
    let world = World::for_user();
    let before = kernels(&world);
    assert!(before.contains("debian"), "{before}");
    let debian = guest::kernels().unwrap().pop().unwrap();
    let binary = world.home().join("my-kernel");
    fs::copy(debian.join("vmlinux"), &binary).unwrap();
    // Its drivers are modules, which are missing here. The image does not show that.
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
    assert!(
        again.error().contains("\"mine\" already exists"),
        "{again:?}"
    );
    let image = lab.image("busybox:1");
    let made = world.run(&["create", &image, "--name", "dev"]);
    assert_eq!(made.code, Some(1), "{made:?}");
    assert!(made.stderr.contains("CONFIG_VIRTIO_CONSOLE"), "{made:?}");

    let chosen = system(&world, &["kernel", "set", "debian"]);
    assert_eq!(chosen.code, Some(0), "{chosen:?}");
    world.create(&image, "dev", &[]);
    let cloud = world.inside("dev", "uname -r");
    assert!(cloud.contains("cloud"), "{cloud}");
    // busybox's modprobe finds what is loaded.
    let modprobe = "modprobe ext4 && modprobe virtiofs";
    world.stdout(&["run", "-n", "dev", "--root", modprobe]);
    // A failure for one kernel does not keep the other from being removed.
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

fn kernels_are_downloaded(_: &Lab) {
    let world = World::for_root();
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
    let server = WebServer::start(&served);
    let url = |archive: &str| format!("http://{}/{archive}", server.address);
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
    // A broken download leaves nothing.
    let broken = TcpRelay::start(server.address, Fault::BreakAfter(1 << 20)).address();
    let broken = format!("http://{broken}/k.tar.gz");
    let broken = set(&[
        &["--tar", &broken, "--digest", &digest("k.tar.gz")],
        &member[..],
    ]
    .concat());
    assert!(broken.error().contains("k.tar.gz"), "{broken:?}");
    assert!(!kernels(&world).contains("vmlinux"));
    // Neither does an interrupted one.
    let scratch = world.path("home/scratch");
    fs::create_dir(&scratch).unwrap();
    let stalls = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let stalled = format!("http://{}/vmlinux", stalls.local_addr().unwrap());
    let mut interrupted = world.container(&["system", "kernel", "set", "--binary", &stalled]);
    interrupted
        .args(["--digest", &digest("k.tar.gz")])
        .env("TMPDIR", &scratch);
    let mut interrupted = interrupted.spawn().unwrap();
    let (mut caller, _) = stalls.accept().unwrap();
    // An answer before the request would be an error.
    assert!(caller.read(&mut [0; 4096]).unwrap() > 0);
    caller
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
        .unwrap();
    let left = || fs::read_dir(&scratch).unwrap().count();
    eventually("the download has begun", || left() == 1);
    let client = rustix::process::Pid::from_child(&interrupted);
    rustix::process::kill_process(client, rustix::process::Signal::INT).unwrap();
    assert_eq!(interrupted.wait().unwrap().code(), Some(130));
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
    // With URL and digest from the configuration.
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

/// A server of a directory over HTTP, until this is dropped.
struct WebServer {
    process: Child,
    address: SocketAddr,
}

impl WebServer {
    fn start(directory: &Path) -> WebServer {
        let address = unused_address().unwrap();
        let mut server = Command::new("busybox");
        server
            .args(["httpd", "-f", "-p", &address.to_string(), "-h"])
            .arg(directory);
        let process = server.spawn().unwrap();
        let server = WebServer { process, address };
        eventually("the server listens", || TcpStream::connect(address).is_ok());
        server
    }
}

impl Drop for WebServer {
    fn drop(&mut self) {
        // Fails if it has ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn missing_kernel_options_are_named(lab: &Lab) {
    let world = World::for_root();
    world.create(&lab.image("busybox:1"), "one", &["--no-boot"]);
    let kernel = tiny_kernel(&world.path("home"), &[]).display().to_string();
    let refused = |file: &str, text: &str| {
        fs::write(world.path("home").join(file), text).unwrap();
        world.error(&["set", "-n", "one", &format!("kernel={kernel}")])
    };
    // A configuration file beside the kernel, as distributions install it.
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
            error.contains("accelerator kvm cannot be used") && error.contains("vmx"),
            "{error}"
        );
    }
}

fn kernel_arguments_are_passed_on(lab: &Lab) {
    let world = lab.unbooted();
    let set = |value: &str| world.run(&["set", "-n", "one", &format!("kernel-args={value}")]);
    assert_eq!(set("quiet container.test=1").code, Some(0));
    assert_eq!(world.inspect("one")["kernelArgs"], "quiet container.test=1");
    assert!(set("a\nb").error().contains("printable"));
    let one = world.stdout(&["run", "-n", "one", "cat /proc/cmdline"]);
    assert!(one.ends_with(" quiet container.test=1\n"), "{one}");
    world.stdout(&["stop", "one"]);
    assert_eq!(set("").code, Some(0));
    assert_eq!(world.inspect("one")["kernelArgs"], "");
    let options = ["--no-boot", "--kernel-args", "quiet nosmt"];
    world.create(&lab.image("busybox:1"), "args", &options);
    assert_eq!(world.inspect("args")["kernelArgs"], "quiet nosmt");
    world.stdout(&["rm", "args"]);
}

fn system_information_is_shown(lab: &Lab) {
    let world = lab.unbooted();
    let shown = system(world, &["info"]).stdout;
    for words in [
        "QEMU emulator version",
        "accelerator",
        "kernel",
        "machines inside",
    ] {
        assert!(shown.contains(words), "{shown}");
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

/// A container behind a bridge with the usual MTU exchanges datagrams that exceed it with a server
/// on the host.
fn large_datagrams_reach_a_container(world: &World) {
    let inside = |line: &str| world.inside("dev", line);
    inside(
        "ip netns add box && ip link add br9 type bridge && ip link add v0 type veth peer name v1 netns box && ip link set v0 master br9 up && ip addr add 10.9.0.1/24 dev br9 && ip link set br9 up && ip -n box addr add 10.9.0.2/24 dev v1 && ip -n box link set v1 up && ip -n box route add default via 10.9.0.1 && sysctl -q net.ipv4.ip_forward=1 && iptables -t nat -A POSTROUTING -s 10.9.0.0/24 -j MASQUERADE",
    );
    // Any datagram to an address that is not the machine's would do: the kernel chooses a route.
    let probe = UdpSocket::bind("0.0.0.0:0").unwrap();
    probe.connect("192.0.2.1:9").unwrap();
    let server = UdpSocket::bind((probe.local_addr().unwrap().ip(), 0)).unwrap();
    let address = server.local_addr().unwrap();
    thread::spawn(move || {
        let mut datagram = [0; 65536];
        while let Ok((length, from)) = server.recv_from(&mut datagram) {
            datagram[..length].reverse();
            server.send_to(&datagram[..length], from).unwrap();
        }
    });
    let client = format!(
        "perl -MIO::Socket::INET -e '$s = IO::Socket::INET->new(PeerAddr => \"{address}\", Proto => \"udp\"); alarm 60; for $n (100, 4000, 20000) {{ $d = join \"\", map {{ chr 33 + $_ % 90 }} 1..$n; $s->send($d); $s->recv($e, 65536); print length $e, scalar reverse($e) eq $d ? \" same \" : \" different \" }}'"
    );
    let said = inside(&format!("ip netns exec box {client}"));
    assert_eq!(said, "100 same 4000 same 20000 same ");
    // Large pings, also answered by the gateway.
    inside("ip netns exec box busybox ping -c 1 -s 4000 198.19.0.1");
}

/// Programs that need many options of the kernel.
fn container_programs_run_on_our_kernel(lab: &Lab) {
    let world = World::for_root();
    let ours = guest::kernels().unwrap().remove(0).join("vmlinux");
    let ours = ours.display().to_string();
    assert!(
        ours.contains("kernels/container"),
        "`make kernel` builds it"
    );
    let image = lab.image("debian-containers:12");
    world.create(&image, "dev", &["--kernel", &ours]);
    let inside = |line: &str| world.inside("dev", line);
    // A container with a network namespace, whose packets are forwarded by netfilter rules.
    inside(IMPORT_BOX);
    let line = "podman run --rm local/box /bin/busybox wget -q -O - http://deb.debian.org/debian/dists/bookworm/Release | grep -m 1 Codename";
    assert_eq!(inside(line), "Codename: bookworm\n");
    let line = "systemd-nspawn --quiet --register=no --pipe --directory=/ --volatile=yes /bin/busybox echo in a container";
    assert_eq!(inside(line), "in a container\n");
    let line = "bpftrace -e 'tracepoint:syscalls:sys_enter_openat /comm == \"cat\"/ { printf(\"%s\\n\", str(args->filename)); exit(); }' -c '/bin/cat /etc/hostname' | grep -c .";
    assert!(inside(line).trim().parse::<u32>().unwrap() > 0);
    let line = "ip link add wg0 type wireguard && wg genkey > /tmp/key && wg set wg0 private-key /tmp/key listen-port 51820 && ip addr add 10.7.0.1/24 dev wg0 && ip link set wg0 up && wg show wg0 listen-port";
    assert_eq!(inside(line), "51820\n");
    large_datagrams_reach_a_container(&world);
    // A loop device; and a new network namespace has no devices except loopback.
    inside(
        "truncate -s 8M /disk && mkfs.ext4 -q /disk && mount -o loop /disk /mnt && touch /mnt/file && umount /mnt",
    );
    let cards = inside("unshare --net ip -o link; ip -o link show type dummy");
    assert!(
        cards.starts_with("1: lo:") && cards.lines().count() == 1,
        "{cards}"
    );
    // Devices for rootless containers.
    inside("useradd -m someone && su someone -c 'exec 3<>/dev/fuse 4<>/dev/net/tun'");
}
