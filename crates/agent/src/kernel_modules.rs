//! Loads the modules that came with the kernel.
//!
//! They ride in a second cpio archive, so they lie under `/lib/modules/<release>` with a
//! `modules.dep` (kmod's format: `path: path…`, a module before what it needs). A kernel with
//! everything built in has none.

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

/// Why a module could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// The list or a module cannot be read.
    #[error("reading {path}: {source}")]
    Read {
        /// What was read.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The kernel refuses the module.
    #[error("the kernel refuses {path}: {source}")]
    Refused {
        /// The module.
        path: PathBuf,
        /// Why.
        source: Errno,
    },
}

/// Loads every module of the running kernel's `modules.dep`, each after what it needs.
pub fn load_all() -> Result<(), ModuleError> {
    let release = nix::sys::utsname::uname()
        .map(|name| name.release().to_owned())
        .unwrap_or_default();
    let directory = Path::new("/lib/modules").join(release);
    let list = directory.join("modules.dep");
    let text = match fs::read_to_string(&list) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(ModuleError::Read { path: list, source }),
    };
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    for module in load_order(&text) {
        if is_for(&processor, module) {
            load(&directory.join(module))?;
        }
    }
    Ok(())
}

/// Whether a module is of use to this processor: KVM's complain where it does not virtualize.
fn is_for(cpuinfo: &str, module: &str) -> bool {
    let has = |flag: &str| cpuinfo.split_whitespace().any(|word| word == flag);
    match module.rsplit('/').next().unwrap_or(module) {
        "kvm.ko" => has("svm") || has("vmx"),
        "kvm-amd.ko" => has("svm"),
        "kvm-intel.ko" => has("vmx"),
        _ => true,
    }
}

/// The modules of a `modules.dep`, each behind those that it needs.
fn load_order(list: &str) -> Vec<&str> {
    let needs: HashMap<&str, Vec<&str>> = list
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(module, needs)| (module.trim(), needs.split_whitespace().collect()))
        .collect();
    let mut order = Vec::new();
    let mut placed = HashSet::new();
    for line in list.lines() {
        if let Some((module, _)) = line.split_once(':') {
            place(module.trim(), &needs, &mut placed, &mut order);
        }
    }
    order
}

fn place<'a>(
    module: &'a str,
    needs: &HashMap<&'a str, Vec<&'a str>>,
    placed: &mut HashSet<&'a str>,
    order: &mut Vec<&'a str>,
) {
    if !placed.insert(module) {
        return;
    }
    for need in needs.get(module).into_iter().flatten() {
        place(need, needs, placed, order);
    }
    order.push(module);
}

fn load(path: &Path) -> Result<(), ModuleError> {
    let file = File::open(path).map_err(|source| ModuleError::Read {
        path: path.to_owned(),
        source,
    })?;
    match finit_module(&file, c"", ModuleInitFlags::empty()) {
        // EEXIST: built in or loaded already. ENODEV: a driver without its device here.
        Ok(()) | Err(Errno::EEXIST | Errno::ENODEV) => Ok(()),
        Err(source) => Err(ModuleError::Refused {
            path: path.to_owned(),
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::{is_for, load_order};

    #[test]
    fn virtualization_is_for_processors_that_virtualize() {
        let amd = "flags\t: fpu svm sse2\n";
        for (cpuinfo, module, is) in [
            (amd, "kernel/arch/x86/kvm/kvm.ko", true),
            (amd, "kernel/arch/x86/kvm/kvm-amd.ko", true),
            (amd, "kernel/arch/x86/kvm/kvm-intel.ko", false),
            ("flags\t: fpu\n", "kernel/arch/x86/kvm/kvm.ko", false),
            ("flags\t: fpu\n", "kernel/fs/fuse/fuse.ko", true),
        ] {
            assert_eq!(is_for(cpuinfo, module), is, "{module}");
        }
    }

    #[test]
    fn a_module_comes_after_all_that_it_needs() {
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
