//! Disk files of machines: qcow2 overlays over a raw base image.
//!
//! Between a disk and the base there may be layers: overlays that never change again, in the disk's
//! directory. A disk names its layer by the file's name, and a lowest layer names the base by its
//! absolute path, so a directory of disk and layers can be renamed, and a layer can have a hard
//! link in another directory.
//!
//! Overlays are created and changed by `qemu-img`. Their contents are read from the file's header
//! (QEMU, docs/interop/qcow2.rst, "Header"), also while the machine runs: `qemu-img info` would
//! have to be asked to ignore the running machine's lock, and takes longer.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, BufReader, ErrorKind, Read, Seek, SeekFrom},
    os::unix::{ffi::OsStrExt, fs::FileExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::{
    fcntl::{FcntlArg, fcntl},
    libc,
};

use super::program::{IMAGE_TOOL, find};
use crate::interface::MissingProgram;

/// The file's first four bytes.
const MAGIC: &[u8] = b"QFI\xfb";

/// Maximum length of a backing file's name in bytes, set by the format.
const MAX_BACKING_FILE_SIZE: u32 = 1023;

/// Error of reading or changing a disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// `qemu-img` is not installed.
    #[error(transparent)]
    NoProgram(#[from] MissingProgram),
    /// The disk's header cannot be read, or is not valid.
    #[error("cannot read the disk {path}: {cause}")]
    Read {
        /// Path of the qcow2 overlay.
        path: PathBuf,
        /// Error of the read; of kind `InvalidData` for an invalid header.
        cause: io::Error,
    },
    /// `qemu-img` could not create or change the disk.
    #[error("cannot {action} the disk {path}: {message}")]
    Change {
        /// What was attempted: `create`, `grow` …
        action: &'static str,
        /// Path of the qcow2 overlay.
        path: PathBuf,
        /// Output of `qemu-img`, or why it could not be started.
        message: String,
    },
}

/// Creates `overlay`, a disk with the contents of the raw image `base` until it is written to. It
/// takes the same time for every size of the image.
///
/// # Errors
/// [`DiskError`].
pub fn create_overlay(base: &Path, overlay: &Path) -> Result<(), DiskError> {
    let mut create = image_tool()?;
    create
        .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
        .args([base, overlay]);
    run(create, "create", overlay)
}

/// Creates `disk`, an empty disk without a base.
///
/// # Errors
/// [`DiskError`].
pub fn create_empty(disk: &Path, capacity: u64) -> Result<(), DiskError> {
    let mut create = image_tool()?;
    create
        .args(["create", "-q", "-f", "qcow2"])
        .arg(disk)
        .arg(capacity.to_string());
    run(create, "create", disk)
}

/// Creates `overlay`, a disk of `capacity` bytes with the contents of `layer`, a file name in the
/// same directory, until it is written to. The layer need not exist yet.
///
/// # Errors
/// [`DiskError`].
pub fn create_on_layer(layer: &str, overlay: &Path, capacity: u64) -> Result<(), DiskError> {
    let mut create = image_tool()?;
    create
        .args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-u", "-b"])
        .arg(layer)
        .arg(overlay)
        .arg(capacity.to_string());
    run(create, "create", overlay)
}

/// Merges the layer that a disk is on into the disk, which is on what the layer was on afterwards.
/// The layer's file remains. An interruption does no harm. Neither may be in use.
///
/// # Errors
/// [`DiskError`]. A disk that is on no layer is left as it is.
pub fn merge_layer(disk: &Path) -> Result<(), DiskError> {
    let Backing::Layer(layer) = read_backing(disk)? else {
        return Ok(());
    };
    let mut rebase = image_tool()?;
    rebase.args(["rebase", "-q", "-f", "qcow2"]);
    add_backing(&mut rebase, &read_backing(&layer)?);
    rebase.arg(disk);
    run(rebase, "merge a layer into", disk)
}

/// Puts a disk from another host on a backing file of this one. The file that its header names, and
/// which an attacker may have chosen, is not opened.
///
/// # Errors
/// [`DiskError`], also if the disk is encrypted, or has data in other files than the backing file.
pub fn adopt(disk: &Path, backing: &Backing) -> Result<(), DiskError> {
    let check = || Header::read(&File::open(disk)?)?.check_self_contained();
    check().map_err(|cause| read_error(disk, cause))?;
    let mut rebase = image_tool()?;
    // Only with `-u` the old backing file is not opened.
    rebase.args(["rebase", "-q", "-u", "-f", "qcow2"]);
    add_backing(&mut rebase, backing);
    rebase.arg(disk);
    run(rebase, "change the backing file of", disk)
}

/// Adds the options of `qemu-img rebase` that name a backing file.
fn add_backing(rebase: &mut Command, backing: &Backing) {
    match backing {
        Backing::Layer(layer) => rebase
            .args(["-F", "qcow2", "-b"])
            .arg(layer.file_name().unwrap_or_default()),
        Backing::Base(base) => rebase.args(["-F", "raw", "-b"]).arg(base),
        Backing::None => rebase.args(["-b", ""]),
    };
}

/// Grows a disk to `capacity` bytes, the new ones zero; a larger disk stays as it is. After an
/// interruption the disk has either the old or the new capacity. The disk must not be in use.
///
/// # Errors
/// [`DiskError`].
pub fn grow(disk: &Path, capacity: u64) -> Result<(), DiskError> {
    if read_capacity(disk)? >= capacity {
        return Ok(());
    }
    let mut resize = image_tool()?;
    resize
        .args(["resize", "-q", "-f", "qcow2"])
        .arg(disk)
        .arg(capacity.to_string());
    run(resize, "grow", disk)
}

/// State of a disk's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageState {
    /// There are no errors. Some space may be unused.
    Clean,
    /// There were errors, or unused space, which are repaired.
    Repaired,
    /// There are errors: some of the disk's contents may be lost.
    Damaged,
}

/// Checks the file of a disk or layer, which must not be in use, and repairs it if `repair`. Also
/// returns what `qemu-img` has printed about a file that is not in order.
///
/// # Errors
/// [`DiskError`], also if the file cannot be checked.
pub fn check(disk: &Path, repair: bool) -> Result<(ImageState, String), DiskError> {
    // `qemu-img` reports a header that is not valid.
    match read_capacity(disk) {
        Err(DiskError::Read { path, cause }) if cause.kind() == ErrorKind::Unsupported => {
            return Err(DiskError::Read { path, cause });
        }
        _ => {}
    }
    let mut check = image_tool()?;
    check.args(["check", "-f", "qcow2"]).arg(disk);
    let (found, output) = run_check(check, disk)?;
    if found == CHECK_CLEAN {
        return Ok((ImageState::Clean, String::new()));
    }
    if !repair {
        let state = match found {
            CHECK_LEAKS => ImageState::Clean,
            _ => ImageState::Damaged,
        };
        return Ok((state, output));
    }
    let mut repair = image_tool()?;
    repair.args(["check", "-r", "all", "-f", "qcow2"]).arg(disk);
    let (left, output) = run_check(repair, disk)?;
    let state = match left {
        CHECK_DAMAGED => ImageState::Damaged,
        _ => ImageState::Repaired,
    };
    Ok((state, output))
}

/// Exit codes of `qemu-img check` (qemu-img(1), "check").
const CHECK_CLEAN: i32 = 0;
const CHECK_DAMAGED: i32 = 2;
const CHECK_LEAKS: i32 = 3;

/// Runs `qemu-img check`. Returns one of its exit codes, and its output.
fn run_check(mut tool: Command, disk: &Path) -> Result<(i32, String), DiskError> {
    let failed = |message: String| DiskError::Change {
        action: "check",
        path: disk.to_owned(),
        message,
    };
    let ran = tool.output().map_err(|error| failed(error.to_string()))?;
    let mut output = String::from_utf8_lossy(&ran.stdout).into_owned();
    output.push_str(&String::from_utf8_lossy(&ran.stderr));
    match ran.status.code() {
        Some(code @ (CHECK_CLEAN | CHECK_DAMAGED | CHECK_LEAKS)) => Ok((code, output)),
        _ => Err(failed(output.trim().to_owned())),
    }
}

/// Returns the capacity of a disk in bytes. The disk may be in use.
///
/// # Errors
/// [`DiskError::Read`].
pub fn read_capacity(disk: &Path) -> Result<u64, DiskError> {
    let read = || Ok(Header::read(&File::open(disk)?)?.size);
    read().map_err(|cause| read_error(disk, cause))
}

/// Returns whether a process of QEMU has a disk open. One that was killed has it until it has
/// ended.
///
/// # Errors
/// [`DiskError::Read`].
pub fn is_in_use(disk: &Path) -> Result<bool, DiskError> {
    // The bytes that QEMU locks (block/file-posix.c, `RAW_LOCK_PERM_BASE`, `RAW_LOCK_SHARED_BASE`).
    let mut lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 100,
        l_len: 200,
        l_pid: 0,
    };
    let mut find = || {
        let file = File::open(disk)?;
        fcntl(&file, FcntlArg::F_OFD_GETLK(&mut lock))?;
        Ok(lock.l_type != libc::F_UNLCK as libc::c_short)
    };
    find().map_err(|cause| read_error(disk, cause))
}

/// What a disk or layer is an overlay of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backing {
    /// A layer in the same directory.
    Layer(PathBuf),
    /// A raw base image.
    Base(PathBuf),
    /// Nothing: the disk is complete.
    None,
}

/// Returns what a disk or layer is an overlay of, whether or not that exists. It may be in use.
///
/// # Errors
/// [`DiskError::Read`].
pub fn read_backing(disk: &Path) -> Result<Backing, DiskError> {
    let read = || {
        let file = File::open(disk)?;
        Header::read(&file)?.read_backing_file(&file)
    };
    let Some(name) = read().map_err(|cause| read_error(disk, cause))? else {
        return Ok(Backing::None);
    };
    let name = Path::new(OsStr::from_bytes(&name));
    if name.is_absolute() {
        return Ok(Backing::Base(name.to_owned()));
    }
    if name.file_name() != Some(name.as_os_str()) {
        let reason = "its layer is not in the same directory";
        return Err(read_error(disk, invalid(reason)));
    }
    Ok(Backing::Layer(disk.with_file_name(name)))
}

/// Returns the layers that a disk is on, from the disk to the base. The disk may be in use.
///
/// # Errors
/// [`DiskError::Read`].
pub fn read_layers(disk: &Path) -> Result<Vec<PathBuf>, DiskError> {
    Ok(read_chain(disk)?.0)
}

/// Returns the base image that a disk names, whether or not that exists; absent if the disk has
/// none. The disk may be in use. A base that is to be opened is [found](find_base).
///
/// # Errors
/// [`DiskError::Read`].
pub fn read_base(disk: &Path) -> Result<Option<PathBuf>, DiskError> {
    Ok(read_chain(disk)?.1)
}

/// Returns the base image of a disk, which must be in the directory `bases`.
///
/// The engine writes the disk, and with it the name of the base. A guest that has broken out of the
/// engine could name any file of the user there.
///
/// # Errors
/// [`DiskError::Read`].
pub fn find_base(disk: &Path, bases: &Path) -> Result<Option<PathBuf>, DiskError> {
    let base = read_base(disk)?;
    if let Some(base) = &base
        && !is_directly_in(base, bases)
    {
        let reason = format!(
            "its base {} is not an image of this program",
            base.display()
        );
        let cause = io::Error::new(ErrorKind::InvalidData, reason);
        return Err(read_error(disk, cause));
    }
    Ok(base)
}

/// Returns whether the file is in the directory, which may have several paths.
fn is_directly_in(file: &Path, directory: &Path) -> bool {
    let Some(parent) = file.parent() else {
        return false;
    };
    match (parent.canonicalize(), directory.canonicalize()) {
        (Ok(parent), Ok(directory)) => parent == directory,
        _ => parent == directory,
    }
}

pub(super) fn read_chain(disk: &Path) -> Result<(Vec<PathBuf>, Option<PathBuf>), DiskError> {
    let mut layers: Vec<PathBuf> = Vec::new();
    loop {
        let top = layers.last().map_or(disk, PathBuf::as_path);
        match read_backing(top)? {
            Backing::Layer(layer) if layers.contains(&layer) || layer == disk => {
                return Err(read_error(&layer, invalid("it is a layer of itself")));
            }
            Backing::Layer(layer) => layers.push(layer),
            Backing::Base(base) => return Ok((layers, Some(base))),
            Backing::None => return Ok((layers, None)),
        }
    }
}

/// Returns whether nothing was written to a disk since it was created as an overlay: its first
/// table of clusters is empty. A disk in use may have writes that are not in the file yet.
///
/// # Errors
/// [`DiskError::Read`].
pub fn is_unwritten(disk: &Path) -> Result<bool, DiskError> {
    let read = || {
        let file = File::open(disk)?;
        let header = Header::read(&file)?;
        let mut table = BufReader::new(&file);
        table.seek(SeekFrom::Start(header.first_table_offset))?;
        let mut entry = [0; 8];
        for _ in 0..header.first_table_entries {
            table.read_exact(&mut entry)?;
            if entry != [0; 8] {
                return Ok(false);
            }
        }
        Ok(true)
    };
    read().map_err(|cause| read_error(disk, cause))
}

fn read_error(disk: &Path, cause: io::Error) -> DiskError {
    DiskError::Read {
        path: disk.to_owned(),
        cause,
    }
}

/// Fields of a qcow2 header that are needed here.
struct Header {
    backing_file_offset: u64,
    backing_file_size: u32,
    size: u64,
    encryption: u32,
    first_table_entries: u32,
    first_table_offset: u64,
    /// Features without which the file cannot be read. Absent in version 2.
    incompatible_features: u64,
}

/// Incompatible features that a disk from another host may have: `dirty`, `compression type` and
/// `extended L2`.
const KNOWN_FEATURES: u64 = 1 << 0 | 1 << 3 | 1 << 4;

/// Incompatible feature of a disk that has its data in another file, `external data file`. Disks of
/// this program never have it. `qemu-img` and QEMU would open a file of that name.
const EXTERNAL_DATA_FILE: u64 = 1 << 2;

impl Header {
    /// Reads the header. Numbers are big-endian: `magic` at 0, `version` at 4,
    /// `backing_file_offset` at 8, `backing_file_size` at 16, `cluster_bits` at 20, `size` at 24,
    /// `crypt_method` at 32, `l1_size` at 36, `l1_table_offset` at 40; from version 3 on,
    /// `incompatible_features` at 72.
    fn read(file: &File) -> io::Result<Header> {
        let mut header = [0; 80];
        file.read_exact_at(&mut header, 0)?;
        if !header.starts_with(MAGIC) {
            return Err(invalid("not a qcow2 file"));
        }
        let version = u32::from_be_bytes(field(&header, 4));
        let incompatible_features = match version {
            2 => 0,
            _ => u64::from_be_bytes(field(&header, 72)),
        };
        if incompatible_features & EXTERNAL_DATA_FILE != 0 {
            let reason = "its data is in another file, which is not supported";
            return Err(io::Error::new(ErrorKind::Unsupported, reason));
        }
        Ok(Header {
            backing_file_offset: u64::from_be_bytes(field(&header, 8)),
            backing_file_size: u32::from_be_bytes(field(&header, 16)),
            size: u64::from_be_bytes(field(&header, 24)),
            encryption: u32::from_be_bytes(field(&header, 32)),
            first_table_entries: u32::from_be_bytes(field(&header, 36)),
            first_table_offset: u64::from_be_bytes(field(&header, 40)),
            incompatible_features,
        })
    }

    /// Refuses a disk that cannot be read without a key or without an external data file.
    fn check_self_contained(&self) -> io::Result<()> {
        if self.encryption != 0 {
            return Err(invalid("it is encrypted"));
        }
        if self.incompatible_features & !KNOWN_FEATURES != 0 {
            return Err(invalid("it uses features that are not supported"));
        }
        Ok(())
    }

    /// Reads the backing file's name; absent if the disk has no backing file.
    fn read_backing_file(&self, file: &File) -> io::Result<Option<Vec<u8>>> {
        if self.backing_file_offset == 0 {
            return Ok(None);
        }
        if self.backing_file_size > MAX_BACKING_FILE_SIZE {
            return Err(invalid("the name of its base image is too long"));
        }
        let mut name = vec![0; self.backing_file_size as usize];
        file.read_exact_at(&mut name, self.backing_file_offset)?;
        Ok(Some(name))
    }
}

/// Returns the bytes of a field of the header.
fn field<const N: usize>(header: &[u8; 80], offset: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&header[offset..offset + N]);
    field
}

fn invalid(reason: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, reason)
}

fn image_tool() -> Result<Command, MissingProgram> {
    let mut tool = Command::new(find(IMAGE_TOOL)?);
    tool.stdin(Stdio::null());
    Ok(tool)
}

fn run(mut tool: Command, action: &'static str, disk: &Path) -> Result<(), DiskError> {
    let failed = |message: String| DiskError::Change {
        action,
        path: disk.to_owned(),
        message,
    };
    let output = tool.output().map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr);
    Err(failed(
        message.trim().trim_start_matches("qemu-img: ").to_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_damaged_file_is_found_and_repaired() {
        let directory = tempfile::tempdir().unwrap();
        let disk = directory.path().join("disk.qcow2");
        create_empty(&disk, 1 << 20).unwrap();
        assert_eq!(
            check(&disk, false).unwrap(),
            (ImageState::Clean, String::new())
        );
        // Counts of the references to clusters: `refcount_table_offset` is at 48.
        let file = File::options().read(true).write(true).open(&disk).unwrap();
        let read = |at| {
            let mut number = [0; 8];
            file.read_exact_at(&mut number, at).unwrap();
            u64::from_be_bytes(number)
        };
        file.write_all_at(&[0; 8], read(read(48))).unwrap();
        let (state, output) = check(&disk, false).unwrap();
        assert_eq!(state, ImageState::Damaged);
        assert!(output.contains("refcount=0"), "{output}");
        let (state, output) = check(&disk, true).unwrap();
        assert_eq!(state, ImageState::Repaired, "{output}");
        assert_eq!(check(&disk, false).unwrap().0, ImageState::Clean);
        fs::write(&disk, "no disk").unwrap();
        assert!(matches!(
            check(&disk, false),
            Err(DiskError::Change {
                action: "check",
                ..
            })
        ));
    }

    #[test]
    fn files_elsewhere_are_not_used() {
        let (bases, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (base, disk) = (bases.path().join("base"), other.path().join("disk.qcow2"));
        fs::write(&base, [0; 4096]).unwrap();
        create_overlay(&base, &disk).unwrap();
        assert_eq!(find_base(&disk, bases.path()).unwrap(), Some(base.clone()));
        let link = other.path().join("link");
        std::os::unix::fs::symlink(bases.path(), &link).unwrap();
        assert_eq!(find_base(&disk, &link).unwrap(), Some(base.clone()));
        let error = find_base(&disk, other.path()).unwrap_err().to_string();
        assert!(error.contains("is not an image of this program"), "{error}");
        // `incompatible_features` is at 72, big-endian.
        let file = File::options().write(true).open(&disk).unwrap();
        file.write_all_at(&[EXTERNAL_DATA_FILE as u8], 79).unwrap();
        let refused = [
            find_base(&disk, bases.path()).map(drop),
            check(&disk, true).map(drop),
            grow(&disk, 1 << 30),
            merge_layer(&disk),
            adopt(&disk, &Backing::Base(base)),
        ];
        for refused in refused {
            let error = refused.unwrap_err().to_string();
            assert!(error.contains("its data is in another file"), "{error}");
        }
    }

    #[test]
    fn the_base_of_an_overlay_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let (base, disk) = (
            directory.path().join("base.ext4"),
            directory.path().join("disk.qcow2"),
        );
        fs::write(&base, [0; 512]).unwrap();
        create_overlay(&base, &disk).unwrap();
        assert_eq!(read_base(&disk).unwrap(), Some(base.clone()));
        // The base need not exist.
        fs::remove_file(&base).unwrap();
        assert_eq!(read_base(&disk).unwrap(), Some(base));

        let whole = directory.path().join("whole.qcow2");
        create_empty(&whole, 1 << 20).unwrap();
        assert_eq!(read_capacity(&whole).unwrap(), 1 << 20);
        assert_eq!(read_base(&whole).unwrap(), None);
    }

    /// Runs a tool of QEMU, and returns what it has printed.
    fn tool(program: &str, arguments: &[&str]) -> String {
        let output = Command::new(program).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn write(disk: &Path, byte: u8, offset: &str) {
        let command = format!("write -P {byte} {offset} 64k");
        tool("qemu-io", &["-c", &command, disk.to_str().unwrap()]);
    }

    fn has(disk: &Path, byte: u8, offset: &str) -> bool {
        let command = format!("read -P {byte} {offset} 64k");
        let output = tool("qemu-io", &["-c", &command, disk.to_str().unwrap()]);
        !output.contains("Pattern verification failed")
    }

    #[test]
    fn layers_keep_their_contents_and_can_be_merged() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let (base, disk) = (path("base"), path("disk"));
        fs::write(&base, vec![7; 1 << 20]).unwrap();
        create_overlay(&base, &path("one")).unwrap();
        assert!(is_unwritten(&path("one")).unwrap());
        write(&path("one"), 1, "0");
        assert!(!is_unwritten(&path("one")).unwrap());
        create_on_layer("one", &path("two"), 1 << 20).unwrap();
        write(&path("two"), 2, "128k");
        create_on_layer("two", &disk, 2 << 20).unwrap();
        assert_eq!(read_layers(&disk).unwrap(), [path("two"), path("one")]);
        assert_eq!(read_base(&disk).unwrap(), Some(base.clone()));
        write(&disk, 3, "1M");

        merge_layer(&disk).unwrap();
        assert_eq!(read_backing(&disk).unwrap(), Backing::Layer(path("one")));
        fs::remove_file(path("two")).unwrap();
        merge_layer(&disk).unwrap();
        merge_layer(&disk).unwrap();
        assert_eq!(read_backing(&disk).unwrap(), Backing::Base(base));
        fs::remove_file(path("one")).unwrap();
        for (byte, offset) in [(1, "0"), (7, "64k"), (2, "128k"), (3, "1M")] {
            assert!(has(&disk, byte, offset), "{byte} at {offset}");
        }
    }

    #[test]
    fn a_disk_on_itself_or_on_a_file_elsewhere_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let disk = directory.path().join("disk");
        for layer in ["disk", "../disk", "./layer", "a/layer"] {
            create_on_layer(layer, &disk, 1 << 20).unwrap();
            assert!(read_layers(&disk).is_err(), "{layer}");
        }
    }

    #[test]
    fn a_disk_of_a_running_program_is_in_use() {
        let directory = tempfile::tempdir().unwrap();
        let disk = directory.path().join("disk.qcow2");
        create_empty(&disk, 1 << 20).unwrap();
        assert!(!is_in_use(&disk).unwrap());
        let mut user = Command::new("qemu-io")
            .arg(&disk)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // It prints its prompt when it has opened the disk.
        let mut prompt = [0];
        user.stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut prompt)
            .unwrap();
        assert!(is_in_use(&disk).unwrap());
        user.kill().unwrap();
        user.wait().unwrap();
        assert!(!is_in_use(&disk).unwrap());
    }

    #[test]
    fn a_disk_from_elsewhere_does_not_lead_to_other_files() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let (secret, layer, disk) = (path("secret"), path("layer"), path("disk"));
        fs::write(&secret, vec![9; 1 << 20]).unwrap();
        fs::write(path("base"), vec![7; 1 << 20]).unwrap();
        create_overlay(&secret, &layer).unwrap();
        create_overlay(&secret, &disk).unwrap();
        write(&disk, 1, "0");
        adopt(&layer, &Backing::Base(path("base"))).unwrap();
        adopt(&disk, &Backing::Layer(layer.clone())).unwrap();
        assert_eq!(read_layers(&disk).unwrap(), [layer]);
        assert!(has(&disk, 1, "0") && has(&disk, 7, "64k"));
        adopt(&disk, &Backing::None).unwrap();
        assert!(has(&disk, 0, "64k"));

        let (outside, external) = (path("outside"), path("external"));
        let options = format!("data_file={},data_file_raw=on", outside.to_str().unwrap());
        let create = ["create", "-q", "-f", "qcow2", "-o", &options];
        tool(
            "qemu-img",
            &[&create[..], &[external.to_str().unwrap(), "1M"]].concat(),
        );
        let error = adopt(&external, &Backing::None).unwrap_err();
        assert!(error.to_string().contains("not supported"), "{error}");
    }

    #[test]
    fn an_invalid_header_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let disk = directory.path().join("disk.qcow2");
        let mut long_name = [0; 80];
        long_name[..4].copy_from_slice(MAGIC);
        long_name[15] = 1;
        long_name[16] = 0xff;
        for bytes in [&b""[..], b"QFI", &[0; 4096], &long_name] {
            fs::write(&disk, bytes).unwrap();
            assert!(read_base(&disk).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn a_disk_grows_and_never_shrinks() {
        let directory = tempfile::tempdir().unwrap();
        let (base, disk) = (
            directory.path().join("base.ext4"),
            directory.path().join("disk.qcow2"),
        );
        fs::write(&base, [1; 4096]).unwrap();
        create_overlay(&base, &disk).unwrap();
        assert_eq!(read_capacity(&disk).unwrap(), 4096);
        for (wanted, had) in [(8 << 40, 8 << 40), (1 << 30, 8 << 40), (0, 8 << 40)] {
            grow(&disk, wanted).unwrap();
            assert_eq!(read_capacity(&disk).unwrap(), had);
        }
        assert_eq!(read_base(&disk).unwrap(), Some(base));
        fs::write(&disk, "no disk").unwrap();
        assert!(grow(&disk, 1 << 30).is_err());
    }
}
