//! Cost of the limit of open files: looks up every file of a tree and reads its attributes, with
//! virtiofsd's file system and with ours, in the same process.
//!
//! `cargo bench --package container-file-share`; `FILES` is the number of files.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{env, ffi::CString, fs, io, path::Path, time::Instant};

use container_file_share::BoundedFileSystem;
use virtiofsd::{
    filesystem::{Context, FileSystem, FsOptions, ROOT_ID},
    passthrough::{Config, InodeFileHandlesMode, PassthroughFs},
};

const FILES_OF_A_DIRECTORY: usize = 100;
const ROUNDS: usize = 5;

fn main() -> io::Result<()> {
    let files = env::var("FILES").map_or(15_000, |files| files.parse().unwrap());
    let home = tempfile::tempdir()?;
    for directory in 0..files / FILES_OF_A_DIRECTORY {
        let directory = home.path().join(directory.to_string());
        fs::create_dir(&directory)?;
        for file in 0..FILES_OF_A_DIRECTORY {
            fs::write(directory.join(file.to_string()), "")?;
        }
    }
    let inner = |handles| PassthroughFs::new(config(home.path(), handles));
    let never = InodeFileHandlesMode::Never;
    let few = files as u64 / 10;
    for round in 0..ROUNDS {
        println!("round {round}, {files} files: first walk, second walk");
        measure("plain", &inner(never)?, files)?;
        measure(
            "ours",
            &BoundedFileSystem::new(inner(never)?, u64::MAX),
            files,
        )?;
        measure(
            "ours, a tenth held",
            &BoundedFileSystem::new(inner(never)?, few),
            files,
        )?;
        if rustix::process::geteuid().is_root() {
            let prefer = InodeFileHandlesMode::Prefer;
            measure("plain, handles", &inner(prefer)?, files)?;
        }
    }
    Ok(())
}

fn config(home: &Path, inode_file_handles: InodeFileHandlesMode) -> Config {
    Config {
        root_dir: home.to_str().unwrap().to_owned(),
        inode_file_handles,
        ..Config::default()
    }
}

fn measure<F>(name: &str, file_system: &F, files: usize) -> io::Result<()>
where
    F: FileSystem<Inode = u64, Handle = u64>,
{
    file_system.init(FsOptions::empty())?;
    let mut walks = Vec::new();
    for _ in 0..2 {
        let begin = Instant::now();
        walk(file_system, files)?;
        walks.push(begin.elapsed() / u32::try_from(files).unwrap());
    }
    println!("{name:>20}: {walks:.1?} a file");
    file_system.destroy();
    Ok(())
}

fn walk<F: FileSystem<Inode = u64, Handle = u64>>(file_system: &F, files: usize) -> io::Result<()> {
    let context = Context {
        uid: 0.into(),
        gid: 0.into(),
        pid: 1,
    };
    let name = |number: usize| CString::new(number.to_string()).unwrap();
    for directory in 0..files / FILES_OF_A_DIRECTORY {
        let directory = file_system.lookup(context, ROOT_ID, &name(directory))?;
        for file in 0..FILES_OF_A_DIRECTORY {
            let file = file_system.lookup(context, directory.inode, &name(file))?;
            file_system.getattr(context, file.inode, None)?;
        }
    }
    Ok(())
}
