//! Fixed paths that several modules of the agent use.

/// Mount point of the machine's disk in the agent's mount namespace.
pub(crate) const MACHINE: &str = "/machine";

/// Block device of the machine's disk.
pub(crate) const DISK: &str = "/dev/vda";

/// The cgroup of all of the machine's processes. Its init sees it as the root of the hierarchy.
pub(crate) const MACHINE_CGROUP: &str = "/sys/fs/cgroup/machine";

/// The cgroup of an init that does not manage cgroups, below [`MACHINE_CGROUP`]. A cgroup with
/// processes of its own cannot give controllers to others (Documentation/admin-guide/cgroup-v2.rst,
/// "No Internal Process Constraint"), as container engines need.
pub(crate) const INIT_CGROUP: &str = "/sys/fs/cgroup/machine/init";

/// Path of an image's init system.
pub(crate) const INIT: &str = "/sbin/init";

/// `PATH` of commands and scripts in the machine. Debian's login gives this value to root; it is
/// harmless for other users.
pub(crate) const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
