//! Machines as the other crates know them: ids, configurations, addresses, and the bundle on disk.
//!
//! The files of one machine are in its [`Bundle`], a directory below the data directory of
//! [`Directories`]:
//!
//! | file | content |
//! |---|---|
//! | `config.json` | [`MachineConfiguration`], fixed when the machine was created |
//! | `boot-config.json` | [`BootConfiguration`], applied by the next boot |
//! | `disk-….qcow2` | overlays on the image's base or on each other: the blocks that the machine has changed; clones have hard links of those that do not change any more |
//! | `disk.qcow2` | link to the overlay that the machine writes to; the overlay itself in old bundles |
//! | `snapshots.json` | [`Snapshot`]s; absent without any |
//! | `suspended` | directory with the saved memory of a suspended machine; `.suspended.new` and `.suspended.used` are leftovers unless its runtime runs |
//! | `suspended/disk.qcow2` | link to the overlay of a snapshot that was restored with its memory, or in place of one; it becomes the disk before anything uses that |
//! | `memory-…` | directories with the memory of snapshots; those that no snapshot names, and `.memory-….new`, are leftovers |
//! | `setup.sh` | script of the image that sets the user up; absent if the image has none |
//! | `lock` | [`ProcessLock`] of the machine's runtime |
//! | `runtime` | path of the runtime directory of the last boot |
//! | `address` | [`MachineAddress`]; absent before the first boot |
//! | `ssh_host_ed25519_key` | private host key for SSH; absent before the first connection |
//! | `provisioned` | empty; present after the machine's user was set up |
//! | `renew-identity` | empty; present in a clone before its first boot |
//! | `stdio.log`, `boot.log` | output of init and of the kernel |
//! | `boot.log.previous` | output of the kernel during the boot before; absent before the second |
//! | `crashed` | why the machine crashed, for the next boot; absent if it has not |
//! | `runtime.log`, `file-share.log`, `engine.log` | output of the host's processes of the machine |
//!
//! A log that has reached its size limit is renamed to `NAME.log.1` ([`rotated_log`]), except
//! `engine.log`, which keeps its beginning. `runtime` is stored because the environment of a later
//! command may name another runtime directory than that of the boot.
//!
//! # What a crash leaves
//!
//! A bundle appears and disappears by a rename, and its files are replaced by a rename. So a
//! machine either exists or does not, and each file has its old or its new content. Directories
//! whose name starts with `.new-` or `.gone-` are bundles being created or removed; without a
//! running service they are leftovers ([`Bundles::remove_leftovers`]).
//!
//! # Modules
//!
//! | module | content |
//! |---|---|
//! | `directories` | the data, config and runtime directory |
//! | `bundles`, `bundle`, `atomic_file` | all machines, the files of one, atomic replacement |
//! | `configuration` | the two JSON files |
//! | `snapshot`, `disk_file`, `memory_directory` | snapshots, the files of disks, and saved memory |
//! | `ssh_files` | the files of the host's SSH client |
//! | `id`, `memory`, `disk_capacity`, `home_mount`, `private_home`, `idle_suspend`, `forwarded_socket`, `mount`, `kernel_parameters`, `ssh_agent_use`, `user`, `address` | validated values |
//! | `disk_reserve` | disk space for removals |
//! | `free_space` | free space on the host's disk |
//! | `dns` | domains of machines on the host |
//! | `process_lock`, `log`, `malloc`, `open_files` | what the service and the runtimes share |
//!
//! # Example
//!
//! ```
//! use container_machine::{BundleError, Bundles, MachineId};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let data = tempfile::tempdir()?;
//! let bundles = Bundles::open(data.path())?;
//! let id: MachineId = "dev".parse()?;
//! let missing = bundles.get(&id).unwrap_err();
//! assert!(matches!(missing, BundleError::NotFound(_)));
//! assert!(missing.to_string().starts_with("machine \"dev\" not found"));
//! # Ok(())
//! # }
//! ```

mod address;
mod atomic_file;
mod bundle;
mod bundle_error;
mod bundles;
mod configuration;
mod directories;
mod disk_capacity;
mod disk_file;
mod disk_reserve;
mod dns;
mod forwarded_socket;
mod free_space;
mod home_mount;
mod id;
mod idle_suspend;
mod kernel_parameters;
mod log;
mod malloc;
mod memory;
mod memory_directory;
mod mount;
mod open_files;
mod private_home;
mod process_lock;
mod size;
mod snapshot;
mod ssh_agent_use;
mod ssh_files;
mod user;

pub use address::{InvalidMachineAddress, MachineAddress};
pub use bundle::{Bundle, NewBundle, RESTORED_DISK, SUSPENDED_MANIFEST};
pub use bundle_error::BundleError;
pub use bundles::Bundles;
pub use configuration::{
    BootConfiguration, Descriptor, ImageDescription, MachineConfiguration, Platform,
};
pub use directories::{Directories, DirectoriesError, create_private, create_runtime_directory};
pub use disk_capacity::{DiskCapacity, InvalidDiskCapacity};
pub use disk_file::{DiskFile, InvalidDiskFileName};
pub use disk_reserve::{DiskReserve, ReleasedReserve};
pub use dns::{DnsDomain, InvalidDnsDomain, RESOLVED_DIRECTORY, domains_of_server};
pub use forwarded_socket::{ForwardedSocket, InvalidForwardedSocket};
pub use free_space::FreeSpace;
pub use home_mount::{HomeMount, InvalidHomeMount};
pub use id::{InvalidMachineId, MachineId};
pub use idle_suspend::{IdleSuspend, InvalidIdleSuspend};
pub use kernel_parameters::{InvalidKernelParameters, KernelParameters};
pub use log::{BoundedStderr, last_lines, previous_log, rotated_log};
pub use malloc::{RUNTIME_MALLOC, SERVICE_MALLOC};
pub use memory::{InvalidMemory, Memory};
pub use memory_directory::{InvalidMemoryDirectoryName, MemoryDirectory};
pub use mount::{
    InvalidMount, InvalidMountPath, Mount, MountMode, MountPath, RequestedMount, RequestedTarget,
};
pub use open_files::raise_open_files_limit;
pub use private_home::{InvalidPrivateHome, PrivateHome};
pub use process_lock::{ProcessLock, ProcessLockError};
pub use size::InvalidSize;
pub use snapshot::{InvalidSnapshotName, Snapshot, SnapshotName};
pub use ssh_agent_use::SshAgentUse;
pub use ssh_files::SshFiles;
pub use user::{UserSetup, home_directory};
