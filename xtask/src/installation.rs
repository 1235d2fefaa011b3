//! Installs the built program.
//!
//! The program is installed as `PREFIX/bin/container`, the guest's files in `PREFIX/lib/container`,
//! manual pages and shell completions in `PREFIX/share`.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::Command,
};

use anyhow::{Context, Result};

use crate::{command, directories::target, guest};

/// Paths, below the prefix, where shells look for the completion of a command of this name.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "share/bash-completion/completions/container"),
    ("zsh", "share/zsh/site-functions/_container"),
    ("fish", "share/fish/vendor_completions.d/container.fish"),
];

/// Installs the program and the guest's files under `prefix`, readable for every user.
pub fn install(prefix: &Path) -> Result<()> {
    let (programs, files) = (prefix.join("bin"), prefix.join("lib/container"));
    for directory in [&programs, &files] {
        create_directory(directory)?;
    }
    copy(&target().join("release/container"), &programs, 0o755)?;
    for file in guest::files()? {
        copy(&file, &files, 0o644)?;
    }
    for kernel in guest::kernels()? {
        let into = files
            .join("kernels")
            .join(kernel.file_name().unwrap_or_default());
        create_directory(&into)?;
        for file in fs::read_dir(&kernel)? {
            copy(&file?.path(), &into, 0o644)?;
        }
    }
    write_documentation(&programs.join("container"), prefix)
}

/// Lets the installed program write its manual pages and completions.
fn write_documentation(program: &Path, prefix: &Path) -> Result<()> {
    let pages = prefix.join("share/man/man1");
    create_directory(&pages)?;
    command::run(Command::new(program).arg("manual-pages").arg(&pages))?;
    for (shell, file) in COMPLETIONS {
        let mut completion = Command::new(program);
        // The script calls the program as it was called itself: by name and not by path.
        completion.arg0("container").args(["completion", shell]);
        let script = command::output(&mut completion)?;
        let file = prefix.join(file);
        create_directory(file.parent().unwrap_or(prefix))?;
        fs::write(&file, script).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

fn create_directory(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))
}

/// Copies a file and replaces an existing one by a rename. Writing to the file of a running program
/// fails with ETXTBSY.
fn copy(file: &Path, into: &Path, mode: u32) -> Result<()> {
    let name = file.file_name().unwrap_or_default();
    let (new, to) = (
        into.join(format!(".{}.new", name.display())),
        into.join(name),
    );
    fs::copy(file, &new)
        .with_context(|| format!("cannot copy {} (build it with: make build)", file.display()))?;
    fs::set_permissions(&new, fs::Permissions::from_mode(mode))?;
    fs::rename(&new, &to).with_context(|| format!("cannot write {}", to.display()))
}
