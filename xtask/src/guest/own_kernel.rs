//! The kernel that is built for machines: Debian's source, with the configuration in
//! `guest/kernel.config`.

use std::{fs, path::Path, process::Command};

use anyhow::{Result, ensure};

use super::{package, remove, replace_kernel};
use crate::{checkout, command, recipe::Recipe, say};

/// Debian's source of the kernel, with Debian's patches.
const SOURCE: &str = "linux-source-6.12";

/// What would otherwise make the bytes differ from build to build (Linux,
/// Documentation/kbuild/reproducible-builds.rst).
const REPRODUCIBLE: [(&str, &str); 4] = [
    ("KBUILD_BUILD_TIMESTAMP", "1970-01-01"),
    ("KBUILD_BUILD_USER", "container"),
    ("KBUILD_BUILD_HOST", "container"),
    ("KBUILD_BUILD_VERSION", "1"),
];

/// Where the debugging information says that the source lies, of which build IDs are made.
const PLACE: &str = "/usr/src/linux";

/// Of pahole's options only what the type information needs: with several threads, which the kernel's build
/// asks for, its order is another one each time.
const TYPES: &str = "PAHOLE_FLAGS=--btf_gen_floats";

/// Builds it, unless this very kernel is there.
pub fn build() -> Result<()> {
    let directory = crate::target().join("guest");
    fs::create_dir_all(&directory)?;
    // The compiler sees no `..`.
    let directory = directory.canonicalize()?;
    let package = package::candidate(SOURCE)?;
    let fragment = fs::read_to_string(checkout().join("guest/kernel.config"))?;
    let compiler = command::output(Command::new("gcc").arg("--version"))?;
    let linker = command::output(Command::new("ld").arg("--version"))?;
    let recipe = Recipe::default()
        .with(&package)
        .with(&fragment)
        .with(compiler)
        .with(linker)
        .with(include_str!("own_kernel.rs"));
    recipe.make(directory.join("own-kernel.stamp"), || {
        say(&format!(
            "Building the kernel from {package}: some ten minutes on two processors"
        ));
        // Two gigabytes, so a build that was interrupted leaves no more than one such directory.
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
        configure(&source, &fragment)?;
        let processors = std::thread::available_parallelism()?.get();
        command::run(
            make(&source)
                .arg(format!("--jobs={processors}"))
                .arg("vmlinux"),
        )?;
        let built = source.join("vmlinux");
        // Its symbols are for debuggers; the kernel has its own table of them.
        command::run(Command::new("strip").arg("--strip-all").arg(&built))?;
        replace_kernel(&directory.join("kernels/container"), &built, &package)?;
        remove(&scratch)
    })
}

/// The fragment's options, and for all others "no".
fn configure(source: &Path, fragment: &str) -> Result<()> {
    let wanted = source.join("wanted.config");
    fs::write(&wanted, fragment)?;
    command::run(
        make(source)
            .env("KCONFIG_ALLCONFIG", &wanted)
            .arg("allnoconfig"),
    )?;
    let made = fs::read_to_string(source.join(".config"))?;
    let lost = lost(fragment, &made);
    ensure!(
        lost.is_empty(),
        "these lines of guest/kernel.config do not stand, as an option is gone or needs another one:\n{}",
        lost.join("\n")
    );
    Ok(())
}

/// The fragment's lines that are not so in the configuration.
fn lost<'a>(fragment: &'a str, made: &str) -> Vec<&'a str> {
    let made: std::collections::HashSet<&str> = made.lines().collect();
    let is_so = |line: &str| match line.strip_prefix("# ") {
        // An option that does not even come up is not set either.
        Some(unset) => {
            let option = unset.trim_end_matches(" is not set");
            !made.iter().any(|line| {
                line.strip_prefix(option)
                    .is_some_and(|rest| rest.starts_with('='))
            })
        }
        None => made.contains(line),
    };
    let lines = fragment.lines().filter(|line| line.contains("CONFIG_"));
    lines.filter(|line| !is_so(line)).collect()
}

fn make(source: &Path) -> Command {
    let mut make = Command::new("make");
    make.arg("--quiet")
        .arg("--directory")
        .arg(source)
        .args(["ARCH=x86_64", TYPES]);
    for flags in ["KCFLAGS", "KAFLAGS"] {
        let source = source.display();
        make.arg(format!("{flags}=-fdebug-prefix-map={source}={PLACE}"));
    }
    // What calls this may be a make, with options of its own.
    make.env_remove("MAKEFLAGS")
        .env_remove("MFLAGS")
        .env_remove("MAKELEVEL");
    make.envs(REPRODUCIBLE);
    make
}

#[cfg(test)]
mod tests {
    use super::lost;

    #[test]
    fn a_line_that_does_not_stand_is_found() {
        let fragment = "# words\nCONFIG_A=y\nCONFIG_B=y\n# CONFIG_C is not set\n# CONFIG_D is not set\nCONFIG_E=\"x\"\n";
        let made = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=y\nCONFIG_DD=y\nCONFIG_E=\"x\"\n";
        assert_eq!(
            lost(fragment, made),
            ["CONFIG_B=y", "# CONFIG_C is not set"]
        );
    }
}
