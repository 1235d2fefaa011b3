//! The modules that a machine needs before it has a disk, in an archive for its initial RAM file system;
//! kmod's `modules.dep` says what needs what (depmod(8), modules.dep(5)).

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
};

use crate::{archive::Archive, compression::decompress};

/// What a machine's devices, its disk and its shared home are driven by, programs of other architectures
/// are run by, what listens on its network is found by, and virtual machines in it are run by.
const WANTED: [&str; 17] = [
    "virtio_pci",
    "virtio_console",
    "virtio_blk",
    "virtio_net",
    "virtio_rng",
    "virtio_balloon",
    "virtiofs",
    "ext4",
    // What ext4 asks the kernel's cryptography for by name.
    "crc32c_generic",
    "unix",
    "af_packet",
    "autofs4",
    "binfmt_misc",
    "tcp_diag",
    "udp_diag",
    "kvm_amd",
    "kvm_intel",
];

/// Why modules could not be packed.
#[derive(Debug, thiserror::Error)]
pub enum ModulesError {
    /// Nobody has written down what needs what.
    #[error(
        "the modules in {directory} have no list of what needs what (modules.dep): `depmod -b BASE {release}` makes it, BASE being the directory that holds lib/modules",
        release = .directory.file_name().unwrap_or_default().display(),
        directory = .directory.display()
    )]
    NoList {
        /// Where they are.
        directory: PathBuf,
    },
    /// Something could not be read or written.
    #[error("packing the module {path}: {source}")]
    Pack {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Where the modules of a kernel are, whose image has this absolute path: in a tree of a distribution's or
/// a package's around the image, or where this host has its own.
pub fn module_directory(image: &Path, release: &str) -> Option<PathBuf> {
    let beside = image.parent()?;
    // Some distributions keep the image among the modules.
    if beside.ends_with(Path::new("lib/modules").join(release)) {
        return Some(beside.to_owned());
    }
    let above = beside.parent().unwrap_or(beside);
    let bases = [
        beside.join("lib/modules"),
        beside.join("modules"),
        above.join("lib/modules"),
        above.join("usr/lib/modules"),
        PathBuf::from("/lib/modules"),
        PathBuf::from("/usr/lib/modules"),
    ];
    let directories = bases.into_iter().map(|base| base.join(release));
    directories.into_iter().find(|directory| directory.is_dir())
}

/// Packs those of the wanted modules that are in a kernel's directory, and all that they need, with their
/// own `modules.dep`. What is compressed there is not in the archive.
///
/// # Errors
/// If the directory has no `modules.dep`, or a module cannot be read.
pub fn pack(directory: &Path, release: &str, archive: &Path) -> Result<(), ModulesError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| ModulesError::Pack { path, source }
    };
    let list = match fs::read_to_string(directory.join("modules.dep")) {
        Ok(list) => list,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let directory = directory.to_owned();
            return Err(ModulesError::NoList { directory });
        }
        Err(error) => return Err(failed(&directory.join("modules.dep"))(error)),
    };
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
    let lines = packed.iter().map(|module| {
        let needs = needs.get(module).copied().unwrap_or_default();
        let needs = needs.split_whitespace().map(unpacked_name);
        let needs: String = needs.map(|it| format!(" {it}")).collect();
        format!("{}:{needs}\n", unpacked_name(module))
    });
    let lines: String = lines.collect();
    file(format!("{base}/modules.dep"), lines.into_bytes());
    for module in packed {
        let path = directory.join(module);
        let bytes = read(&path).map_err(failed(&path))?;
        file(format!("{base}/{}", unpacked_name(module)), bytes);
    }
    contents.write(archive).map_err(failed(archive))
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let stream = BufReader::new(fs::File::open(path)?);
    decompress(stream)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// `a/b.ko` of `a/b.ko.xz`.
fn unpacked_name(path: &str) -> &str {
    path.find(".ko.").map_or(path, |at| &path[..at + 3])
}

fn name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    let stem = file.split('.').next().unwrap_or(file);
    stem.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_named_as_the_kernel_names_it() {
        assert_eq!(
            name("kernel/drivers/char/hw_random/virtio-rng.ko"),
            "virtio_rng"
        );
        assert_eq!(name("kernel/fs/ext4/ext4.ko.xz"), "ext4");
        assert_eq!(unpacked_name("fs/ext4.ko.zst"), "fs/ext4.ko");
        assert_eq!(unpacked_name("fs/ext4.ko"), "fs/ext4.ko");
    }

    #[test]
    fn modules_come_unpacked_with_what_they_need_and_without_the_rest() {
        let directory = tempfile::tempdir().unwrap();
        let write =
            |name: &str, bytes: &[u8]| fs::write(directory.path().join(name), bytes).unwrap();
        write(
            "ext4.ko.zst",
            &zstd::encode_all(&b"the file system"[..], 1).unwrap(),
        );
        write("jbd2.ko", b"its journal");
        write("other.ko", b"unwanted");
        let archive = directory.path().join("modules.cpio");
        let error = pack(directory.path(), "6.1", &archive).unwrap_err();
        assert!(error.to_string().contains("depmod"), "{error}");
        write(
            "modules.dep",
            b"ext4.ko.zst: jbd2.ko\njbd2.ko:\nother.ko:\n",
        );
        pack(directory.path(), "6.1", &archive).unwrap();
        let packed = fs::read(&archive).unwrap();
        let has = |words: &str| memchr::memmem::find(&packed, words.as_bytes()).is_some();
        assert!(has("lib/modules/6.1/ext4.ko\0") && has("the file system"));
        assert!(has("ext4.ko: jbd2.ko\n") && has("its journal") && !has("unwanted"));
    }

    #[test]
    fn modules_are_found_around_their_kernel() {
        let root = tempfile::tempdir().unwrap();
        let modules = root.path().join("lib/modules/6.1-x");
        fs::create_dir_all(&modules).unwrap();
        for image in ["boot/vmlinuz-6.1-x", "vmlinuz", "lib/modules/6.1-x/vmlinuz"] {
            let found = module_directory(&root.path().join(image), "6.1-x");
            assert_eq!(found.as_ref(), Some(&modules), "{image}");
        }
        assert_eq!(module_directory(&root.path().join("boot/k"), "6.1-y"), None);
    }
}
