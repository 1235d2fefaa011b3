//! The modules that a machine needs before it has a disk, packed into an initramfs. Dependencies
//! come from kmod's `modules.dep` (depmod(8), modules.dep(5)).
//!
//! depmod's complete index is packed too, for the machine's own `modprobe`: with it, loading what
//! is built in or already loaded succeeds.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
};

use crate::{compression::decompress, initramfs::Initramfs};

/// Modules that are packed if the kernel has them: drivers of the machine's devices, disk and
/// shared home, programs of other architectures (`binfmt_misc`), finding listeners (`*_diag`), and
/// nested virtualization. The names have underscores, as the kernel's own.
const WANTED: [&str; 17] = [
    "virtio_pci",
    "virtio_console",
    "virtio_blk",
    "virtio_net",
    "virtio_rng",
    "virtio_balloon",
    "virtiofs",
    "ext4",
    // ext4 requests it by name from the kernel's cryptography, so modules.dep does not list it.
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

/// Directory of depmod's index, below that of the packed modules.
const INDEX_DIRECTORY: &str = "index";

/// depmod's files that `modprobe` of kmod or busybox reads, as far as the kernel has them.
const INDEX: [&str; 9] = [
    "modules.dep",
    "modules.dep.bin",
    "modules.alias.bin",
    "modules.symbols.bin",
    "modules.softdep",
    "modules.builtin",
    "modules.builtin.bin",
    "modules.builtin.alias.bin",
    "modules.builtin.modinfo",
];

/// Error of packing modules.
#[derive(Debug, thiserror::Error)]
pub enum ModulesError {
    /// The modules have no `modules.dep`.
    #[error(
        "modules.dep not found in {directory}: create it with `depmod -b BASE {release}`, BASE being the directory that contains lib/modules",
        release = .directory.file_name().unwrap_or_default().display(),
        directory = .directory.display()
    )]
    NoDependencies {
        /// Directory of the modules.
        directory: PathBuf,
    },
    /// A module or the archive cannot be read or written.
    #[error("cannot pack {path}: {cause}", path = .path.display())]
    Pack {
        /// Path of the file.
        path: PathBuf,
        /// Error of the system call or of the decompression.
        cause: io::Error,
    },
}

fn pack_error(path: &Path) -> impl FnOnce(io::Error) -> ModulesError {
    let path = path.to_owned();
    move |cause| ModulesError::Pack { path, cause }
}

/// Finds the modules of a kernel whose image has this absolute path: in the tree of a distribution
/// or package around the image, or where this host has its own.
pub(crate) fn find_modules(image: &Path, release: &str) -> Option<PathBuf> {
    let beside = image.parent()?;
    // Some distributions store the image among the modules.
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

/// Packs the wanted modules of a kernel and their dependencies into an archive, decompressed, with
/// a `modules.dep` of their own, and the complete index.
///
/// # Errors
/// If the directory has no `modules.dep`, or a module cannot be read.
pub(crate) fn pack(directory: &Path, release: &str, archive: &Path) -> Result<(), ModulesError> {
    let list = read_dependencies(directory)?;
    let dependencies = parse_dependencies(&list);
    let modules = select(&dependencies);
    let mut packed = ModuleTree::new(release);
    packed.file("modules.dep", write_dependencies(&modules, &dependencies));
    for module in modules {
        let path = directory.join(module);
        let bytes = read_module(&path).map_err(pack_error(&path))?;
        packed.file(decompressed_name(module), bytes);
    }
    for name in INDEX {
        let path = directory.join(name);
        match fs::read(&path) {
            Ok(bytes) => packed.file(&format!("{INDEX_DIRECTORY}/{name}"), bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(cause) => return Err(pack_error(&path)(cause)),
        }
    }
    packed.archive.write(archive).map_err(pack_error(archive))
}

/// Dependencies by module, all as paths in the modules' directory. The dependencies of one module
/// are separated by spaces, and complete.
type Dependencies<'a> = HashMap<&'a str, &'a str>;

fn read_dependencies(directory: &Path) -> Result<String, ModulesError> {
    let path = directory.join("modules.dep");
    fs::read_to_string(&path).map_err(|cause| {
        if cause.kind() == io::ErrorKind::NotFound {
            let directory = directory.to_owned();
            ModulesError::NoDependencies { directory }
        } else {
            pack_error(&path)(cause)
        }
    })
}

fn parse_dependencies(list: &str) -> Dependencies<'_> {
    list.lines()
        .filter_map(|line| line.split_once(':'))
        .collect()
}

/// Returns the wanted modules and their dependencies.
fn select<'a>(dependencies: &Dependencies<'a>) -> BTreeSet<&'a str> {
    let mut selected = BTreeSet::new();
    for wanted in WANTED {
        let module = dependencies.keys().find(|path| module_name(path) == wanted);
        // A driver without a module is built in, or not for this kernel.
        if let Some(module) = module {
            selected.insert(*module);
            selected.extend(dependencies[module].split_whitespace());
        }
    }
    selected
}

/// Returns the text of a `modules.dep` for the decompressed modules.
fn write_dependencies(modules: &BTreeSet<&str>, dependencies: &Dependencies<'_>) -> Vec<u8> {
    let lines = modules.iter().map(|module| {
        let list = dependencies.get(module).copied().unwrap_or_default();
        let list = list.split_whitespace().map(decompressed_name);
        let list: String = list.map(|it| format!(" {it}")).collect();
        format!("{}:{list}\n", decompressed_name(module))
    });
    lines.collect::<String>().into_bytes()
}

/// An initramfs with `lib/modules/RELEASE`.
struct ModuleTree {
    archive: Initramfs,
    base: String,
    /// Directories that have been added.
    directories: BTreeSet<String>,
}

impl ModuleTree {
    fn new(release: &str) -> ModuleTree {
        ModuleTree {
            archive: Initramfs::default(),
            base: format!("lib/modules/{release}"),
            directories: BTreeSet::new(),
        }
    }

    /// Adds a file, and the directories above it that are missing.
    fn file(&mut self, path: &str, bytes: Vec<u8>) {
        let path = format!("{}/{path}", self.base);
        for (position, _) in path.match_indices('/') {
            let directory = &path[..position];
            if self.directories.insert(directory.to_owned()) {
                self.archive.directory(directory);
            }
        }
        self.archive.file(&path, 0o644, bytes);
    }
}

fn read_module(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let stream = BufReader::new(fs::File::open(path)?);
    decompress(stream)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Removes the extension of the compression: `a/b.ko.xz` becomes `a/b.ko`.
fn decompressed_name(path: &str) -> &str {
    path.find(".ko.").map_or(path, |at| &path[..at + 3])
}

/// Returns the kernel's name of a module: `a/virtio-rng.ko` is `virtio_rng`.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    let stem = file.split('.').next().unwrap_or(file);
    stem.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn module_names_are_the_kernels() {
        assert_eq!(
            module_name("kernel/drivers/char/hw_random/virtio-rng.ko"),
            "virtio_rng"
        );
        assert_eq!(module_name("kernel/fs/ext4/ext4.ko.xz"), "ext4");
        assert_eq!(decompressed_name("fs/ext4.ko.zst"), "fs/ext4.ko");
        assert_eq!(decompressed_name("fs/ext4.ko"), "fs/ext4.ko");
    }

    #[test]
    fn wanted_modules_are_packed_with_their_dependencies() {
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
        assert!(has("lib/modules/6.1/index/modules.dep\0") && has("\nother.ko:\n"));
        assert!(!has("modules.builtin"));
    }

    #[test]
    fn modules_are_found_around_the_image() {
        let root = tempfile::tempdir().unwrap();
        let modules = root.path().join("lib/modules/6.1-x");
        fs::create_dir_all(&modules).unwrap();
        for image in ["boot/vmlinuz-6.1-x", "vmlinuz", "lib/modules/6.1-x/vmlinuz"] {
            let found = find_modules(&root.path().join(image), "6.1-x");
            assert_eq!(found.as_ref(), Some(&modules), "{image}");
        }
        assert_eq!(find_modules(&root.path().join("boot/k"), "6.1-y"), None);
    }
}
