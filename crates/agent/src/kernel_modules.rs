//! Loads the kernel's modules.
//!
//! They are in a second cpio archive, under `/lib/modules/<release>`, together with a `modules.dep`
//! in kmod's format: `path: path…`, a module and its dependencies. That of a kernel with all
//! drivers built in lists none. depmod's complete index, for the machine, is in `index` beside it.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    kmod::{ModuleInitFlags, finit_module},
};

/// Error of loading a module.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ModuleError {
    /// `modules.dep` or a module cannot be read.
    #[error("cannot read {path}: {cause}")]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// Error of reading it.
        cause: io::Error,
    },
    /// The kernel refuses the module.
    #[error("the kernel refuses the module {path}: {cause}")]
    Refused {
        /// Path of the module.
        path: PathBuf,
        /// Error of finit_module(2).
        cause: Errno,
    },
}

/// Directory of the kernels' modules.
const MODULES: &str = "/lib/modules";

/// Returns the running kernel's release.
pub(crate) fn release() -> Option<String> {
    let name = nix::sys::utsname::uname().ok()?;
    Some(name.release().to_str()?.to_owned())
}

/// Returns the directory of depmod's complete index of the running kernel; absent if the kernel
/// came without modules.
pub(crate) fn index_directory() -> Option<PathBuf> {
    let directory = Path::new(MODULES).join(release()?).join("index");
    directory.is_dir().then_some(directory)
}

/// Loads every module of the running kernel's `modules.dep`, each after its dependencies.
pub(crate) fn load_all() -> Result<(), ModuleError> {
    let directory = Path::new(MODULES).join(release().unwrap_or_default());
    let list = directory.join("modules.dep");
    let text = match fs::read_to_string(&list) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(cause) => return Err(ModuleError::Read { path: list, cause }),
    };
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    for module in load_order(&text) {
        if is_supported(&processor, module) {
            load(&directory.join(module))?;
        }
    }
    Ok(())
}

/// Returns whether the processor supports a module. KVM's modules fail to load on a processor
/// without virtualization.
fn is_supported(cpuinfo: &str, module: &str) -> bool {
    let has = |flag: &str| cpuinfo.split_whitespace().any(|word| word == flag);
    match module.rsplit('/').next().unwrap_or(module) {
        "kvm.ko" => has("svm") || has("vmx"),
        "kvm-amd.ko" => has("svm"),
        "kvm-intel.ko" => has("vmx"),
        _ => true,
    }
}

/// Returns the modules of a `modules.dep`, each after its dependencies.
fn load_order(list: &str) -> Vec<&str> {
    let dependencies: HashMap<&str, Vec<&str>> = list
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(module, list)| (module.trim(), list.split_whitespace().collect()))
        .collect();
    let mut order = Vec::new();
    let mut visited = HashSet::new();
    for line in list.lines() {
        if let Some((module, _)) = line.split_once(':') {
            visit(module.trim(), &dependencies, &mut visited, &mut order);
        }
    }
    order
}

/// Appends the dependencies of a module and then the module, unless it was visited before.
fn visit<'a>(
    module: &'a str,
    dependencies: &HashMap<&'a str, Vec<&'a str>>,
    visited: &mut HashSet<&'a str>,
    order: &mut Vec<&'a str>,
) {
    if !visited.insert(module) {
        return;
    }
    for dependency in dependencies.get(module).into_iter().flatten() {
        visit(dependency, dependencies, visited, order);
    }
    order.push(module);
}

fn load(path: &Path) -> Result<(), ModuleError> {
    let file = File::open(path).map_err(|cause| ModuleError::Read {
        path: path.to_owned(),
        cause,
    })?;
    match finit_module(&file, c"", ModuleInitFlags::empty()) {
        // EEXIST: built in or loaded already. ENODEV: the driver's device is absent.
        Ok(()) | Err(Errno::EEXIST | Errno::ENODEV) => Ok(()),
        Err(cause) => Err(ModuleError::Refused {
            path: path.to_owned(),
            cause,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::{is_supported, load_order};

    #[test]
    fn kvm_modules_need_virtualization() {
        let amd = "flags\t: fpu svm sse2\n";
        for (cpuinfo, module, expected) in [
            (amd, "kernel/arch/x86/kvm/kvm.ko", true),
            (amd, "kernel/arch/x86/kvm/kvm-amd.ko", true),
            (amd, "kernel/arch/x86/kvm/kvm-intel.ko", false),
            ("flags\t: fpu\n", "kernel/arch/x86/kvm/kvm.ko", false),
            ("flags\t: fpu\n", "kernel/fs/fuse/fuse.ko", true),
        ] {
            assert_eq!(is_supported(cpuinfo, module), expected, "{module}");
        }
    }

    #[test]
    fn modules_are_loaded_after_their_dependencies() {
        let list = "fs/virtiofs.ko: fs/fuse.ko virtio/ring.ko\n\
                    fs/fuse.ko:\n\
                    virtio/ring.ko: virtio/virtio.ko\n\
                    virtio/virtio.ko:\n";
        assert_eq!(
            load_order(list),
            [
                "fs/fuse.ko",
                "virtio/virtio.ko",
                "virtio/ring.ko",
                "fs/virtiofs.ko"
            ]
        );
    }
}
