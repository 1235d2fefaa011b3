//! The domain: machine ids, configurations, and the bundle on disk.
//!
//! Everything of one machine lies in its [`Bundle`], a directory in the [`World`]'s data
//! directory:
//!
//! | file | holds |
//! |---|---|
//! | `config.json` | [`MachineConfiguration`]: what was fixed when the machine was created |
//! | `boot-config.json` | [`BootConfiguration`]: what the next boot applies |
//! | `disk.qcow2` | what the machine's disk has that its image's does not |
//! | `setup.sh` | the script of the image's machine settings that sets the user up, if they have one; fixed at create too |
//! | `lock` | locked by the machine's runtime, whose process it names, for as long as that lives |
//! | `runtime` | where the runtime of the newest boot works: whoever asks finds it there, whatever its own environment says |
//! | `address` | the machine's [`MachineAddress`], from its first boot on |
//! | `provisioned` | there once the machine's user is set up |
//! | `stdio.log`, `boot.log`, `runtime.log`, `file-share.log`, `engine.log` | what init, the kernel, the runtime, the home's server and the engine print; the older part of one that grew large has `.1` behind its name |
//!
//! A bundle appears whole, by a rename, and goes the same way; files in it are replaced by a
//! rename too. So whatever is killed when, a machine is there or it is not. Directories whose
//! name starts with a dot are on their way in or out, and nobody's when no service runs.

mod address;
mod bundle;
mod configuration;
mod disk_capacity;
mod dns;
mod home_mount;
mod id;
mod kernel_parameters;
mod memory;
mod size;
mod user;
mod world;

pub use address::{MachineAddress, NotAMachineAddress};
pub use bundle::{Bundle, BundleError, Bundles, NewBundle, put_aside};
pub use configuration::{
    BootConfiguration, Descriptor, ImageDescription, MachineConfiguration, Platform,
};
pub use disk_capacity::{DiskCapacity, InvalidDiskCapacity};
pub use dns::{DnsDomain, InvalidDnsDomain, NAME_SERVERS, domains_of};
pub use home_mount::{HomeMount, InvalidHomeMount};
pub use id::{InvalidMachineId, MachineId};
pub use kernel_parameters::{InvalidKernelParameters, KernelParameters};
pub use memory::{InvalidMemory, Memory};
pub use size::NotASize;
pub use user::{UserSetup, home_directory};
pub use world::{World, WorldError};
