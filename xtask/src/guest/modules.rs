//! The kernel's modules that a machine needs before it has a disk: kmod's `modules.dep` says
//! what needs what.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::Path,
    process::Command,
};

use anyhow::{Context, Result, ensure};

use super::archive::Archive;
use crate::command;

/// What a machine's devices and its shared home are driven by, programs of other architectures are run
/// by, and what listens on its network is found by.
const WANTED: [&str; 11] = [
    "virtio_pci",
    "virtio_console",
    "virtio_blk",
    "virtio_net",
    "virtio_rng",
    "virtio_balloon",
    "virtiofs",
    "autofs4",
    "binfmt_misc",
    "tcp_diag",
    "udp_diag",
];

/// Packs the wanted modules of the kernel `release`, whose package is unpacked at `root`, and
/// all that they need, with their own `modules.dep`.
pub fn pack(root: &Path, release: &str, archive: &Path) -> Result<()> {
    command::run(
        Command::new("depmod")
            .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
            .arg("--basedir")
            .arg(root)
            .arg(release),
    )?;
    let directory = root.join("lib/modules").join(release);
    let list = fs::read_to_string(directory.join("modules.dep"))?;
    let needs: HashMap<&str, &str> = list
        .lines()
        .filter_map(|line| line.split_once(':'))
        .collect();
    let mut packed = BTreeSet::new();
    for wanted in WANTED {
        let module = needs.keys().find(|path| name(path) == wanted);
        // What is not there as a module is built in, or is not for this kernel.
        if let Some(module) = module {
            packed.insert(*module);
            packed.extend(needs[module].split_whitespace());
        }
    }
    ensure!(
        packed.iter().all(|module| module.ends_with(".ko")),
        "the kernel's modules are compressed, which the agent does not undo"
    );

    let mut contents = Archive::default();
    let mut made = BTreeSet::new();
    let base = format!("lib/modules/{release}");
    let mut file = |path: String, bytes: Vec<u8>| {
        for (position, _) in path.match_indices('/') {
            if made.insert(path[..position].to_owned()) {
                contents.directory(&path[..position]);
            }
        }
        contents.file(&path, 0o644, bytes);
    };
    let list: Vec<String> = packed
        .iter()
        .map(|module| format!("{module}:{}\n", needs.get(module).unwrap_or(&"")))
        .collect();
    file(format!("{base}/modules.dep"), list.concat().into_bytes());
    for module in packed {
        let bytes = fs::read(directory.join(module));
        let bytes = bytes.with_context(|| format!("reading the module {module}"))?;
        file(format!("{base}/{module}"), bytes);
    }
    contents.write(archive)
}

fn name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    let stem = file.split('.').next().unwrap_or(file);
    stem.replace('-', "_")
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_module_is_named_as_the_kernel_names_it() {
        assert_eq!(
            super::name("kernel/drivers/char/hw_random/virtio-rng.ko"),
            "virtio_rng"
        );
    }
}
