use std::{net::SocketAddr, sync::OnceLock};

use xtask::registry::{self, Registry};

use crate::World;

/// What tests share because it takes long to make. Each is made when a test first asks for it,
/// and all is removed when the lab is dropped.
#[derive(Default)]
pub struct Lab {
    // Machines go before the registry that they came from.
    root: OnceLock<World>,
    user: OnceLock<World>,
    unbooted: OnceLock<World>,
    registry: OnceLock<Registry>,
}

impl Lab {
    /// A reference to a test image, `NAME:TAG`.
    pub fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.registry())
    }

    /// Where the registry of the test images listens.
    pub fn registry(&self) -> SocketAddr {
        let start = || Registry::start(&registry::storage()).unwrap();
        self.registry.get_or_init(start).address()
    }

    /// Root's world, with a running Debian `dev`. Tests leave the machine as it is.
    pub fn root(&self) -> &World {
        self.root.get_or_init(|| {
            let world = World::of_root();
            world.create(&self.image("debian-systemd:12"), "dev", &[]);
            world
        })
    }

    /// A world of root's with two machines that were never booted: `one`, which is the default
    /// one, and `two`. Tests leave them as they are.
    pub fn unbooted(&self) -> &World {
        self.unbooted.get_or_init(|| {
            let world = World::of_root();
            for machine in ["one", "two"] {
                world.create(&self.image("busybox:1"), machine, &["--no-boot"]);
            }
            world
        })
    }

    /// An ordinary user's world, with a running Debian `dev`. Tests leave the machine as it is.
    pub fn user(&self) -> &World {
        self.user.get_or_init(|| {
            let world = World::of_user();
            world.create(&self.image("debian-systemd:12"), "dev", &[]);
            world
        })
    }
}
