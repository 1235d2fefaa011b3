//! Worlds and a registry that tests share.

use std::{net::SocketAddr, path::PathBuf, sync::OnceLock};

use xtask::{
    directories::checkout,
    guest,
    registry::{self, Registry},
};

use crate::World;

/// Registry and worlds that tests share, because they take long to create.
///
/// Each is created when a test first uses it. Dropping the lab removes them.
#[derive(Default)]
pub struct Lab {
    // Fields are dropped in this order: the machines before the registry of their images.
    root: OnceLock<World>,
    user: OnceLock<World>,
    user_with_tools: OnceLock<World>,
    root_with_tools: OnceLock<World>,
    unbooted: OnceLock<World>,
    nest: OnceLock<World>,
    registry: OnceLock<Registry>,
}

impl Lab {
    /// Returns the reference of a test image, `NAME:TAG`, and starts the registry.
    pub fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.registry())
    }

    /// Returns the address of the registry of the test images.
    pub fn registry(&self) -> SocketAddr {
        let start = || Registry::start(&registry::storage()).unwrap();
        self.registry.get_or_init(start).address()
    }

    /// Returns root's world, with a running Debian machine `dev` on the default kernel, which is
    /// ours if `make kernel` has built it. Tests must not stop or change it.
    pub fn root(&self) -> &World {
        self.root.get_or_init(|| {
            let world = World::for_root();
            world.create(&self.image("debian-systemd:12"), "dev", &[]);
            world
        })
    }

    /// Returns a world of root with two machines that were never booted: `one`, the default
    /// machine, and `two`. Tests must not boot or change them.
    pub fn unbooted(&self) -> &World {
        self.unbooted.get_or_init(|| {
            let world = World::for_root();
            for machine in ["one", "two"] {
                world.create(&self.image("busybox:1"), machine, &["--no-boot"]);
            }
            world
        })
    }

    /// Returns an ordinary user's world, with a running Debian machine `dev` on Debian's kernel.
    /// Tests must not stop or change it.
    pub fn user(&self) -> &World {
        self.user.get_or_init(|| {
            let world = World::for_user();
            let image = self.image("debian-systemd:12");
            world.create(&image, "dev", &["--kernel", &debian_kernel()]);
            world
        })
    }

    /// Returns an ordinary user's world, with a running machine `dev` of the image `debian-tools`,
    /// on Debian's kernel. Tests must not stop it.
    pub fn user_with_tools(&self) -> &World {
        self.user_with_tools.get_or_init(|| {
            let world = World::for_user();
            let image = self.image("debian-tools:12");
            world.create(&image, "dev", &["--kernel", &debian_kernel()]);
            world
        })
    }

    /// Returns root's world, with a running machine `dev` of the image `debian-tools`, on our
    /// kernel. Tests must not stop it.
    pub fn root_with_tools(&self) -> &World {
        self.root_with_tools.get_or_init(|| {
            let world = World::for_root();
            let kernel = our_kernel().display().to_string();
            let image = self.image("debian-tools:12");
            world.create(&image, "dev", &["--kernel", &kernel]);
            world
        })
    }

    /// Returns root's world, with a running Debian machine `nest` that can run machines. It mounts
    /// the checkout at its own path, and this world's installation at `/opt/container`, read-only.
    pub fn nest(&self) -> &World {
        self.nest.get_or_init(|| {
            let world = World::for_root();
            let checkout = checkout().canonicalize().unwrap();
            let checkout = format!("{0}:{0}:ro", checkout.display());
            let program = format!("{}:/opt/container:ro", world.path("usr").display());
            let image = self.image("debian-kvm:12");
            let create = ["create", &image, "--name", "nest", "--virtualization"];
            let resources = ["--cpus", "2", "--memory", "6G"];
            let mounts = ["--mount", &checkout, "--mount", &program];
            world.stdout(&[&create[..], &resources, &mounts].concat());
            world
        })
    }

    /// Returns the worlds whose machines have tools: of a user and of root, on both kernels.
    pub fn with_tools(&self) -> [&World; 2] {
        [self.user_with_tools(), self.root_with_tools()]
    }
}

/// Returns the kernel made for machines, or Debian's if `make kernel` has not built it.
pub fn our_kernel() -> PathBuf {
    let kernels = guest::kernels().unwrap();
    kernels.first().unwrap().join("vmlinux")
}

/// Returns the path of Debian's kernel.
pub fn debian_kernel() -> String {
    let kernels = guest::kernels().unwrap();
    kernels
        .last()
        .unwrap()
        .join("vmlinux")
        .display()
        .to_string()
}
