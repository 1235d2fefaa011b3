//! An installation: `PREFIX/bin/container` with what it needs in `PREFIX/lib/container`, its
//! manual pages and what shells complete with in `PREFIX/share`.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::Command,
};

use anyhow::{Context, Result};

use crate::{command, guest, target};

/// Where the shells look for what completes a command of this name.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "share/bash-completion/completions/container"),
    ("zsh", "share/zsh/site-functions/_container"),
    ("fish", "share/fish/vendor_completions.d/container.fish"),
];

/// Copies the program and the guest's files below `prefix`, for anyone to use.
pub fn install(prefix: &Path) -> Result<()> {
    let (programs, files) = (prefix.join("bin"), prefix.join("lib/container"));
    for directory in [&programs, &files] {
        make_directory(directory)?;
    }
    copy(&target().join("release/container"), &programs, 0o755)?;
    for file in guest::files()? {
        copy(&file, &files, 0o644)?;
    }
    for kernel in guest::kernels()? {
        let into = files
            .join("kernels")
            .join(kernel.file_name().unwrap_or_default());
        make_directory(&into)?;
        for file in fs::read_dir(&kernel)? {
            copy(&file?.path(), &into, 0o644)?;
        }
    }
    document(&programs.join("container"), prefix)
}

/// Lets the program write its manual pages and completions.
fn document(program: &Path, prefix: &Path) -> Result<()> {
    let pages = prefix.join("share/man/man1");
    make_directory(&pages)?;
    command::run(Command::new(program).arg("manual-pages").arg(&pages))?;
    for (shell, file) in COMPLETIONS {
        let mut completion = Command::new(program);
        // Called by its name the program is called by its name in the script, too.
        completion.arg0("container").args(["completion", shell]);
        let script = command::output(&mut completion)?;
        let file = prefix.join(file);
        make_directory(file.parent().unwrap_or(prefix))?;
        fs::write(&file, script).with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(())
}

fn make_directory(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))
}

/// Puts a new file in the place of an old one, which may be running.
fn copy(file: &Path, into: &Path, mode: u32) -> Result<()> {
    let name = file.file_name().unwrap_or_default();
    let (new, to) = (
        into.join(format!(".{}.new", name.display())),
        into.join(name),
    );
    fs::copy(file, &new)
        .with_context(|| format!("copying {} (`make build` makes it)", file.display()))?;
    fs::set_permissions(&new, fs::Permissions::from_mode(mode))?;
    fs::rename(&new, &to).with_context(|| format!("writing {}", to.display()))
}
