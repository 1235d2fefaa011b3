//! What a machine offers to the programs in it, whatever its init, and machines that are damaged.

use std::{io::Write, process::Stdio, time::SystemTime};

use end_to_end::{Lab, Outcome, World, eventually};
use xtask::guest;

use crate::kernels;

crate::declare::tests![
    full_disk_and_immutable_files_do_not_prevent_a_boot,
    broken_init_is_repaired_in_a_rescue,
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
