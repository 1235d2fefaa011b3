//! Projects of other languages, which the work builds: made from registries, and built offline.

use std::{fs, path::Path, process::Command};

use end_to_end::World;

/// Builds a library from the sources of its dependencies.
pub(crate) const CARGO_BUILD: &str =
    "CARGO_HOME=/inputs/cargo PATH=/inputs/toolchain/bin:$PATH cargo build --offline";

/// Installs a project's packages from the cache that [`make_projects`] has filled.
pub(crate) const NPM_CI: &str = "node /inputs/npm/bin/npm-cli.js ci --offline --ignore-scripts --no-audit --no-fund --cache /inputs/cache";

/// The package manager, which Debian has with hundreds of packages only.
const NPM: &str = "https://registry.npmjs.org/npm/-/npm-10.9.2.tgz";

/// Certificates that the host trusts.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// A web server with its linter and compiler: 190 packages.
const PACKAGE: &str = r#"{
    "name": "app",
    "version": "1.0.0",
    "dependencies": { "express": "4.21.2" },
    "devDependencies": { "eslint": "8.57.1", "typescript": "5.6.3" }
}
"#;

/// A library with dependencies that have no build scripts, because the machine has no linker.
const MANIFEST: &str = r#"[package]
name = "example"
version = "0.1.0"
edition = "2021"

[dependencies]
bitflags = "=2.6.0"
fastrand = "=2.1.1"
hashbrown = { version = "=0.15.0", default-features = false }
itoa = "=1.0.11"
memchr = "=2.7.4"
ryu = "=1.0.18"
smallvec = "=1.13.2"

[workspace]
"#;

/// Configuration of Cargo, which uses the sources beside it.
const VENDORED: &str = r#"[source.crates-io]
replace-with = "vendored"

[source.vendored]
directory = "vendor"
"#;

/// Makes a Node.js project, `app`, and a Rust library, `crate`, with everything that building them
/// in a machine needs.
pub(crate) fn make_projects(world: &World, inputs: &Path) {
    let app = inputs.join("app");
    fs::create_dir(&app).unwrap();
    fs::write(app.join("package.json"), PACKAGE).unwrap();
    run(Command::new("sh").current_dir(inputs).args([
        "-c",
        &format!("curl --silent --show-error --fail {NPM} | tar -xz && mv package npm"),
    ]));
    let at = inputs.display();
    // The cache is filled in the machine, because the host may have no Node.js. The host may trust
    // other certificates than the image.
    fs::copy(CERTIFICATES, inputs.join("certificates")).unwrap();
    let install = "install --ignore-scripts --no-audit --no-fund --cache";
    world.inside("dev", &format!("cd {at}/app && NODE_EXTRA_CA_CERTS={at}/certificates node {at}/npm/bin/npm-cli.js {install} {at}/cache && rm -r node_modules"));
    let library = inputs.join("crate");
    fs::create_dir_all(library.join("src")).unwrap();
    fs::write(library.join("Cargo.toml"), MANIFEST).unwrap();
    fs::write(library.join("src/lib.rs"), "").unwrap();
    run(Command::new("sh")
        .current_dir(&library)
        .args(["-c", "mkdir .cargo && cargo vendor --quiet"]));
    fs::write(library.join(".cargo/config.toml"), VENDORED).unwrap();
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output();
    let sysroot = String::from_utf8(sysroot.unwrap().stdout).unwrap();
    let line = format!(
        "cd {} && mkdir -p {at}/toolchain/bin && cp --parents -r bin/cargo bin/rustc lib/*.so* lib/rustlib/x86_64-unknown-linux-gnu/lib {at}/toolchain",
        sysroot.trim()
    );
    run(Command::new("sh").args(["-c", &line]));
}

fn run(command: &mut Command) {
    let status = command.status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
}
