//! A bare QEMU with the same kernel and servers, and another network implementation.

use std::{
    fs::{self, Permissions},
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    process::{Child, ChildStdout, Command},
};

use container_benches::{bare_engine, kernels};
use container_kernel::Initramfs;
use tempfile::TempDir;

use crate::servers::{Ports, SERVERS, SERVING};

/// Network implementation of the guest's network card.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// QEMU's own libslirp, with `hostfwd`.
    Slirp,
    /// passt, over a stream socket.
    Passt,
}

/// A running virtual machine. Dropping it ends it.
pub(crate) struct Bare {
    processes: Vec<Child>,
    /// Kept open, because QEMU would get SIGPIPE.
    _console: BufReader<ChildStdout>,
    _directory: TempDir,
}

impl Bare {
    /// Boots a virtual machine with its servers forwarded at these ports of 127.0.0.1.
    pub(crate) fn boot(way: Way, ports: Ports) -> Bare {
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let initramfs = directory.path().join("initramfs");
        write_initramfs(&initramfs, way);
        // passt, started as root, switches to the user nobody.
        fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).unwrap();
        let mut processes = Vec::new();
        let netdev = match way {
            Way::Slirp => {
                let forwards = ports
                    .iter()
                    .zip(SERVERS)
                    .map(|(port, guest)| format!(",hostfwd=tcp:127.0.0.1:{port}-:{guest}"));
                format!("user,id=n{}", forwards.collect::<String>())
            }
            Way::Passt => {
                let socket = directory.path().join("passt.sock");
                let forwards: Vec<String> = ports
                    .iter()
                    .zip(SERVERS)
                    .map(|(port, guest)| format!("{port}:{guest}"))
                    .collect();
                let passt = Command::new("passt")
                    .args(["--foreground", "--quiet", "-a", "10.0.2.15"])
                    .args(["-n", "24", "-g", "10.0.2.2", "--socket"])
                    .arg(&socket)
                    .args(["-t", &forwards.join(",")])
                    .spawn();
                processes.push(passt.unwrap());
                end_to_end::eventually("passt listens", || socket.exists());
                format!(
                    "stream,id=n,server=off,addr.type=unix,addr.path={}",
                    socket.display()
                )
            }
        };
        let [own_kernel, _] = kernels();
        let mut engine = bare_engine("q35", &own_kernel, &initramfs)
            .args(["-netdev", &netdev])
            .args(["-device", "virtio-net-pci,netdev=n,romfile="])
            .spawn()
            .unwrap();
        let mut console = BufReader::new(engine.stdout.take().unwrap());
        processes.push(engine);
        let mut line = String::new();
        while line.trim() != "up" {
            line.clear();
            assert_ne!(
                console.read_line(&mut line).unwrap(),
                0,
                "the virtual machine does not boot"
            );
        }
        Bare {
            processes,
            _console: console,
            _directory: directory,
        }
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // Fails for passt, which ends with its QEMU.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn write_initramfs(path: &std::path::Path, way: Way) {
    let mtu = match way {
        // The MTU that each is designed for.
        Way::Slirp => 1500,
        Way::Passt => 65520,
    };
    let mut init = format!(
        "#!/bin/busybox sh\nexport PATH=/bin\n/bin/busybox --install -s /bin\n\
         mount -t devtmpfs none /dev\nmount -t proc none /proc\n\
         ip link set lo up\nip link set eth0 mtu {mtu} up\nip addr add 10.0.2.15/24 dev eth0\n\
         ip route add default via 10.0.2.2\n"
    );
    let mut initramfs = Initramfs::default();
    for directory in ["dev", "proc", "bin", "tmp"] {
        initramfs.directory(directory);
    }
    initramfs.character_device("dev/console", 5, 1);
    initramfs.file("bin/busybox", 0o755, fs::read("/bin/busybox").unwrap());
    for line in SERVING {
        init += &format!("({line}) &\n");
    }
    init += "sleep 1\necho up\nwhile true; do sleep 1000; done\n";
    initramfs.file("init", 0o755, init.into_bytes());
    initramfs.write(path).unwrap();
}
