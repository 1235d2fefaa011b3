//! What a machine offers to the programs in it, whatever its init, machines that are damaged, and
//! hosts that are checked.

use std::{
    fs,
    io::Write,
    process::{Command, Stdio},
    time::SystemTime,
};

use end_to_end::{Lab, Outcome, World, eventually};
use serde_json::Value;
use xtask::guest;

use crate::kernels;

crate::declare::tests![
    full_disk_and_immutable_files_do_not_prevent_a_boot,
    broken_init_is_repaired_in_a_rescue,
    host_is_checked_without_a_service,
    report_has_no_secrets,
];

/// Returns the output of a shell line of root.
fn as_root(world: &World, machine: &str, line: &str) -> String {
    world.stdout(&["run", "-n", machine, "--root", line])
}

/// Checks kernel parameters, cgroups and programs that the kernel starts.
pub(crate) fn check(world: &World, machine: &str) {
    let root = |line: &str| as_root(world, machine, line);
    let parameters = root(
        "cd /proc/sys && cat vm/max_map_count vm/overcommit_memory fs/inotify/max_user_instances fs/aio-max-nr",
    );
    let parameters: Vec<u64> = parameters.lines().map(|it| it.parse().unwrap()).collect();
    for (value, minimum) in parameters.iter().zip([262_144, 1, 524_288, 1_048_576]) {
        assert!(*value >= minimum, "{parameters:?}");
    }
    let limit = root(
        "cd /sys/fs/cgroup && echo +memory > cgroup.subtree_control && mkdir test && echo 64M > test/memory.max && cat test/memory.max && rmdir test",
    );
    assert_eq!(limit, "67108864\n");
    root(
        "printf '#!/bin/sh\\necho \"$@\" >> /helped\\n[ -d /proc/$2 ] && echo visible on $(hostname) >> /helped\\nexit 1\\n' > /helper; chmod 755 /helper",
    );
    root("echo /helper > /proc/sys/kernel/modprobe; mount -t missingfs none /tmp || true");
    assert!(root("cat /helped").contains("fs-missingfs"));
    root("echo '|/helper core %P' > /proc/sys/kernel/core_pattern; sh -c 'kill -SEGV $$' || true");
    // The command ends before the handler does, and the kernel may look for more modules.
    eventually("the handler of crashes has run in the machine", || {
        root("cat /helped").contains(&format!("\nvisible on {machine}\n"))
    });
    root(
        "rm /helper /helped; echo core > /proc/sys/kernel/core_pattern; echo /sbin/modprobe > /proc/sys/kernel/modprobe",
    );
}

/// Steps a machine's clock back.
pub(crate) fn step_clock(world: &World, machine: &str) {
    as_root(world, machine, "date -s @$(($(date +%s) - 28800))");
}

/// Waits until a machine's clock is the host's.
pub(crate) fn await_clock(world: &World, machine: &str) {
    eventually("the clock is the host's", || {
        let inside: u64 = world.inside(machine, "date +%s").trim().parse().unwrap();
        let here = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        // The command takes some time.
        inside.abs_diff(here.unwrap().as_secs()) < 600
    });
}

fn full_disk_and_immutable_files_do_not_prevent_a_boot(lab: &Lab) {
    let world = World::for_user();
    world.create(&lab.image("busybox:1"), "dev", &["--disk-size", "1G"]);
    let fill = |directory: &str| {
        format!(
            "for size in 1M 4k; do dd if=/dev/zero of={directory}/$size bs=$size; done 2>&1 | tail -1"
        )
    };
    as_root(&world, "dev", "mkdir -m 1777 /data");
    world.inside("dev", &fill("/data"));
    let full = world.inside("dev", "echo x > /data/more || echo full");
    assert_eq!(full, "full\n");
    // The blocks that are reserved for root.
    as_root(&world, "dev", "dd if=/dev/zero of=/data/root bs=1M count=4");
    world.stdout(&["restart", "dev"]);
    assert_eq!(as_root(&world, "dev", "echo y > /y; cat /y"), "y\n");

    // The image has no chattr.
    let files = world.home().join("chattr");
    kernels::copy_program("/usr/bin/chattr", "chattr", &files);
    let chattr = |flag: &str| {
        format!(
            "cd {} && lib/ld-linux-x86-64.so.2 --library-path lib ./chattr {flag} /etc/resolv.conf",
            files.display()
        )
    };
    as_root(
        &world,
        "dev",
        &format!("echo '# mine' > /etc/resolv.conf && {}", chattr("+i")),
    );
    // Nothing is left for root either, and the new name cannot be written.
    as_root(&world, "dev", &format!("mkdir /more; {}", fill("/more")));
    world.stdout(&["stop", "dev"]);
    world.stdout(&["rename", "dev", "full"]);
    assert_eq!(
        world.inside("full", "cat /etc/hostname; hostname"),
        "full\nfull\n"
    );
    assert_eq!(world.inside("full", "cat /etc/resolv.conf"), "# mine\n");
    let log = world.stdout(&["logs", "--boot", "full"]);
    assert!(log.contains("cannot write /etc/resolv.conf"), "{log}");
    // After the repair, nothing of it is left.
    as_root(
        &world,
        "full",
        &format!("{}; rm -r /data /more", chattr("-i")),
    );
    world.stdout(&["restart", "full"]);
    let mounts = world.inside(
        "full",
        "grep -c /etc/host /proc/mounts; cat /etc/resolv.conf",
    );
    assert!(mounts.starts_with("0\nnameserver"), "{mounts}");
    world.stdout(&["stop", "full"]);
    world.check_disk("full");
}

/// Starts a machine for a rescue with commands on standard input.
fn rescue(world: &World, commands: &str) -> Outcome {
    let mut start = world.machine(&["start", "--rescue", "dev"]);
    start.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut shell = start.stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = shell.stdin.take().unwrap();
    stdin.write_all(commands.as_bytes()).unwrap();
    drop(stdin);
    shell.wait_with_output().unwrap().into()
}

fn broken_init_is_repaired_in_a_rescue(lab: &Lab) {
    let world = World::for_user();
    world.create(&lab.image("busybox:1"), "dev", &[]);
    let refused = rescue(&world, "");
    assert!(
        refused.error().contains("container machine stop dev"),
        "{refused:?}"
    );
    as_root(
        &world,
        "dev",
        "mv /sbin/init /sbin/good; echo '#!/nowhere' > /sbin/init; chmod +x /sbin/init",
    );
    let error = world.error(&["restart", "dev"]);
    assert!(
        error.contains("cannot start the machine's init") && error.contains("start --rescue"),
        "{error}"
    );
    let looked = rescue(&world, "id -u; cat /sbin/init\nexit 7\n");
    assert_eq!(
        (looked.code, &looked.stdout[..]),
        (Some(7), "0\n#!/nowhere\n"),
        "{looked:?}"
    );
    assert!(
        looked.stderr.contains("container machine restart dev"),
        "{looked:?}"
    );
    assert_eq!(world.inspect("dev")["init"], "rescue");
    assert_eq!(world.inspect("dev")["status"], "running");
    let note = world.run(&["run", "-n", "dev", "true"]).stderr;
    assert!(note.contains("running in a rescue"), "{note}");
    world.stdout(&["stop", "dev"]);
    assert!(world.is_stopped("dev"));
    let repaired = rescue(&world, "mv /sbin/good /sbin/init\n");
    assert_eq!(repaired.code, Some(0), "{repaired:?}");
    world.stdout(&["restart", "dev"]);
    assert_eq!(world.inspect("dev")["init"], "/bin/busybox");
    world.stdout(&["stop", "dev"]);
    world.check_disk("dev");
}

/// Returns the exit code of the doctor, and its checks.
fn diagnose(world: &World, options: &[&str]) -> (Option<i32>, Value) {
    let arguments = [&["system", "doctor", "--format", "json"], options].concat();
    let outcome = Outcome::from(world.container(&arguments).output().unwrap());
    let diagnosis = serde_json::from_str(&outcome.stdout);
    (
        outcome.code,
        diagnosis.unwrap_or_else(|_| panic!("{outcome:?}")),
    )
}

/// Returns the check of this name.
fn check_of<'a>(diagnosis: &'a Value, name: &str) -> &'a Value {
    let mut checks = diagnosis["checks"].as_array().unwrap().iter();
    let check = checks.find(|check| check["name"] == name);
    check.unwrap_or_else(|| panic!("no check {name} in {diagnosis}"))
}

fn host_is_checked_without_a_service(lab: &Lab) {
    let (code, diagnosis) = diagnose(lab.user(), &[]);
    assert_eq!(code, Some(0), "{diagnosis}");
    let machines = check_of(&diagnosis, "machines");
    assert_eq!(machines["message"], "1 machine, 1 running");
    for name in [
        "engine",
        "kernel",
        "guest-files",
        "configuration",
        "service",
    ] {
        assert_eq!(check_of(&diagnosis, name)["status"], "ok", "{diagnosis}");
    }

    let world = World::for_user();
    world.create(&lab.image("busybox:1"), "dev", &["--no-boot"]);
    let directory = |below: &str| world.path(below).display().to_string();
    let left = [
        directory("data/container/machines/.new-dev-1"),
        directory("runtime/container/machines/gone"),
    ];
    for service in world.processes("service") {
        service.kill();
    }
    eventually("the service has ended", || {
        world.processes("service").is_empty()
    });
    for directory in &left {
        world.on_host(&["mkdir", "-p", directory]);
    }
    let (code, diagnosis) = diagnose(&world, &[]);
    let found = check_of(&diagnosis, "leftovers");
    assert_eq!(found["status"], "warning", "{diagnosis}");
    assert_eq!(found["fix"], "container system doctor --fix");
    assert_eq!(code, Some(0), "{diagnosis}");
    let (_, diagnosis) = diagnose(&world, &["--fix"]);
    let removed = &check_of(&diagnosis, "leftovers")["message"];
    assert!(
        removed.as_str().unwrap().starts_with("removed 2"),
        "{removed}"
    );
    assert!(left.iter().all(|it| !std::path::Path::new(it).exists()));

    world.configure("[machine]\ncpuz = 1\n");
    fs::remove_file(world.bundle("dev", "config.json")).unwrap();
    let (code, diagnosis) = diagnose(&world, &[]);
    assert_eq!(code, Some(1), "{diagnosis}");
    for name in ["configuration", "machine dev"] {
        assert_eq!(
            check_of(&diagnosis, name)["status"],
            "problem",
            "{diagnosis}"
        );
    }
    assert!(world.processes("service").is_empty());
    world.configure("");
}

fn report_has_no_secrets(lab: &Lab) {
    let report = |world: &World| {
        let file = world.home().join("report.tar.gz").display().to_string();
        let mut command = world.container(&["system", "report", "-o", &file]);
        let outcome = Outcome::from(command.output().unwrap());
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        assert!(outcome.stderr.contains("Read it before"), "{outcome:?}");
        let text = Command::new("tar").args(["-xzOf", &file]).output().unwrap();
        fs::remove_file(&file).unwrap();
        let text = String::from_utf8_lossy(&text.stdout).into_owned();
        (outcome.stdout, text)
    };
    let (files, text) = report(lab.user());
    for file in [
        "doctor.json",
        "machines.json",
        "service.log",
        "machines/dev/boot.log",
    ] {
        assert!(files.contains(file), "{files}");
    }
    assert!(!files.contains("stdio.log"), "{files}");
    assert!(text.contains("Linux version"));

    let world = World::for_user();
    let digest = "0".repeat(64);
    world.configure(&format!(
        "[kernel]\nurl = \"https://ann:hunter2@example.com/k\"\ndigest = \"sha256:{digest}\"\n"
    ));
    let (files, text) = report(&world);
    assert!(
        files.contains("config.toml") && files.contains("system.json"),
        "{files}"
    );
    assert!(text.contains("[removed]@example.com"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
}

/// Checks containers and modules in a machine of `debian-containers` without an init system, on the
/// kernel made for machines. Root's storage is not that of the shared home.
pub(crate) fn containers_run_without_systemd(world: &World) {
    let inside = |line: &str| as_root(world, "dev", line);
    inside(kernels::IMPORT_BOX);
    let line = "podman --cgroup-manager cgroupfs run --rm -m 64m --network none local/box /bin/busybox cat /sys/fs/cgroup/memory.max";
    assert_eq!(inside(line), "67108864\n");
    inside(
        "for it in overlay br_netfilter nf_conntrack ip_tables wireguard tun vxlan kvm squashfs; do modprobe $it || exit; done",
    );
    inside("! modprobe no_such_module");
    let line = "for it in gzip lzo lz4 xz zstd; do rm -f /q; mksquashfs /etc/apt /q -comp $it -quiet -no-progress > /dev/null && mount -o loop /q /mnt && umount /mnt && echo $it; done";
    assert_eq!(inside(line), "gzip\nlzo\nlz4\nxz\nzstd\n");
    assert_eq!(inside("ls /proc/pressure"), "cpu\nio\nmemory\n");
    let line = "for it in nfs nfs4 cifs xfs btrfs exfat 9p; do grep -qw $it /proc/filesystems || echo $it; done";
    assert_eq!(inside(line), "");
    // The kernel asks the machine's request-key for a key.
    inside(
        "printf 'create user test:* * /bin/keyctl instantiate %%k made %%S\\n' > /etc/request-key.conf",
    );
    // It fails if no program instantiates the key.
    inside("keyctl request2 user test:x '' @u");

    let debian = guest::kernels().unwrap().pop().unwrap().join("vmlinux");
    world.stdout(&["set", "-n", "dev", &format!("kernel={}", debian.display())]);
    world.stdout(&["restart", "dev"]);
    inside("for it in ext4 virtiofs; do modprobe $it || exit; done");
    assert_eq!(inside("ls /lib/modules; uname -r").lines().count(), 2);
}
