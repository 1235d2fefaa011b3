//! Builds the kernel for machines from Debian's kernel source, `guest/patches` and
//! `guest/kernel.config`.
//!
//! The build is reproducible: the same source, configuration and compiler give the same bytes in
//! any directory.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, ensure};

use super::{
    kernels::{remove, replace_kernel},
    package,
};
use crate::{
    command,
    directories::{checkout, target},
    inputs::Inputs,
    progress,
};

/// Package of the kernel's source with Debian's patches.
const SOURCE: &str = "linux-source-6.12";

/// Fixed values of variables that otherwise differ in each build
/// (Documentation/kbuild/reproducible-builds.rst).
const REPRODUCIBLE: [(&str, &str); 4] = [
    ("KBUILD_BUILD_TIMESTAMP", "1970-01-01"),
    ("KBUILD_BUILD_USER", "container"),
    ("KBUILD_BUILD_HOST", "container"),
    ("KBUILD_BUILD_VERSION", "1"),
];

/// Path of the source in the debugging information, which build IDs are computed from.
const SOURCE_DIRECTORY: &str = "/usr/src/linux";

/// Less debugging information, which saves a tenth of the time. The type information is the same.
const DEBUGGING: &str = "-fno-var-tracking-assignments -gno-statement-frontiers \
                         -gno-variable-location-views";

/// Options of pahole, which writes the type information. They replace those of the kernel's build,
/// which let pahole use several threads and so produce a different order in each build.
const PAHOLE_FLAGS: &str = "PAHOLE_FLAGS=--btf_gen_floats";

/// Builds the kernel as `target/guest/kernels/container`, unless its inputs are unchanged.
pub fn build() -> Result<()> {
    let directory = target().join("guest");
    fs::create_dir_all(&directory)?;
    // The prefix map of the debugging information needs paths without `..`.
    let directory = directory.canonicalize()?;
    let package = package::candidate(SOURCE)?;
    let fragment = fs::read_to_string(checkout().join("guest/kernel.config"))?;
    let patches = patches()?;
    let compiler = command::output(Command::new("gcc").arg("--version"))?;
    let linker = command::output(Command::new("ld").arg("--version"))?;
    let mut inputs = Inputs::default()
        .with(&package)
        .with(&fragment)
        .with(compiler)
        .with(linker)
        .with(include_str!("own_kernel.rs"));
    for patch in &patches {
        inputs = inputs.with(fs::read(patch)?);
    }
    inputs.build_if_changed(directory.join("own-kernel.stamp"), || {
        progress::print(&format!(
            "Building the kernel from {package}: about ten minutes on two processors"
        ));
        // A fixed name, so that interrupted builds do not leave several directories of two
        // gigabytes.
        let scratch = directory.join("kernel-build");
        remove(&scratch)?;
        fs::create_dir(&scratch)?;
        let unpacked = package::fetch(&[&package], &scratch)?;
        let archive = unpacked.join(format!("usr/src/{SOURCE}.tar.xz"));
        command::run(
            Command::new("tar")
                .arg("--extract")
                .arg("--directory")
                .arg(&scratch)
                .arg("--file")
                .arg(&archive),
        )?;
        let source = scratch.join(SOURCE);
        for patch in &patches {
            apply(&source, patch)?;
        }
        configure(&source, &fragment)?;
        let processors = std::thread::available_parallelism()?.get();
        command::run(
            make(&source)
                .arg(format!("--jobs={processors}"))
                .arg("vmlinux"),
        )?;
        let built = source.join("vmlinux");
        // The ELF symbols are for debuggers only. The kernel keeps its own table (kallsyms).
        command::run(Command::new("strip").arg("--strip-all").arg(&built))?;
        let image = with_list_of_built_in_modules(&source, &scratch.join("tree"))?;
        replace_kernel(&directory.join("kernels/container"), &image, &package)?;
        remove(&scratch)
    })
}

/// Returns the patches of the source, in order.
fn patches() -> Result<Vec<PathBuf>> {
    let directory = checkout().join("guest/patches").canonicalize()?;
    let entries: Vec<_> = fs::read_dir(directory)?.collect::<Result<_, _>>()?;
    let mut patches: Vec<PathBuf> = entries.iter().map(fs::DirEntry::path).collect();
    patches.sort();
    Ok(patches)
}

fn apply(source: &Path, patch: &Path) -> Result<()> {
    command::run(
        Command::new("patch")
            .args(["--strip=1", "--forward", "--silent", "--fuzz=0"])
            .arg("--directory")
            .arg(source)
            .arg("--input")
            .arg(patch),
    )
}

/// Configures the source with the fragment's options and "no" for all others.
fn configure(source: &Path, fragment: &str) -> Result<()> {
    let fragment_file = source.join("fragment.config");
    fs::write(&fragment_file, fragment)?;
    command::run(
        make(source)
            .env("KCONFIG_ALLCONFIG", &fragment_file)
            .arg("allnoconfig"),
    )?;
    let configuration = fs::read_to_string(source.join(".config"))?;
    let lost = lost_lines(fragment, &configuration);
    ensure!(
        lost.is_empty(),
        "these lines of guest/kernel.config are not in the resulting configuration (an option was \
         removed, or it depends on another one):\n{}",
        lost.join("\n")
    );
    Ok(())
}

/// Arranges the built kernel in `tree` as distributions do, with the list of what would be a module
/// elsewhere (`modules.builtin`), which makes `modprobe` succeed for these names. Returns the path
/// of the image.
fn with_list_of_built_in_modules(source: &Path, tree: &Path) -> Result<PathBuf> {
    let release = fs::read_to_string(source.join("include/config/kernel.release"))?;
    let release = release.trim();
    let modules = tree.join("lib/modules").join(release);
    fs::create_dir_all(&modules)?;
    for list in ["modules.builtin", "modules.builtin.modinfo"] {
        fs::copy(source.join(list), modules.join(list))?;
    }
    fs::write(modules.join("modules.order"), "")?;
    package::index_modules(tree, release)?;
    let boot = tree.join("boot");
    fs::create_dir_all(&boot)?;
    let image = boot.join("vmlinux");
    fs::rename(source.join("vmlinux"), &image)?;
    Ok(image)
}

/// Returns the fragment's lines that the configuration does not contain.
fn lost_lines<'a>(fragment: &'a str, configuration: &str) -> Vec<&'a str> {
    let configuration: std::collections::HashSet<&str> = configuration.lines().collect();
    let is_kept = |line: &str| match line.strip_prefix("# ") {
        // The configuration does not list an option with unmet dependencies, which is not set.
        Some(unset) => {
            let option = unset.trim_end_matches(" is not set");
            !configuration.iter().any(|line| {
                line.strip_prefix(option)
                    .is_some_and(|rest| rest.starts_with('='))
            })
        }
        None => configuration.contains(line),
    };
    let lines = fragment.lines().filter(|line| line.contains("CONFIG_"));
    lines.filter(|line| !is_kept(line)).collect()
}

fn make(source: &Path) -> Command {
    let mut make = Command::new("make");
    make.arg("--quiet")
        .arg("--directory")
        .arg(source)
        .args(["ARCH=x86_64", PAHOLE_FLAGS]);
    for flags in ["KCFLAGS", "KAFLAGS"] {
        let source = source.display();
        make.arg(format!(
            "{flags}=-fdebug-prefix-map={source}={SOURCE_DIRECTORY} {DEBUGGING}"
        ));
    }
    // This may run in a make, whose options must not apply to the kernel's.
    make.env_remove("MAKEFLAGS")
        .env_remove("MFLAGS")
        .env_remove("MAKELEVEL");
    make.envs(REPRODUCIBLE);
    make
}

#[cfg(test)]
mod tests {
    use super::lost_lines;

    #[test]
    fn lost_lines_of_the_fragment_are_found() {
        let fragment = "# words\nCONFIG_A=y\nCONFIG_B=y\n# CONFIG_C is not set\n# CONFIG_D is not set\nCONFIG_E=\"x\"\n";
        let made = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=y\nCONFIG_DD=y\nCONFIG_E=\"x\"\n";
        assert_eq!(
            lost_lines(fragment, made),
            ["CONFIG_B=y", "# CONFIG_C is not set"]
        );
    }
}
