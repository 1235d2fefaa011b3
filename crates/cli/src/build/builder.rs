//! The programs that build images, and their command lines.

use std::{
    env,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::Stdio,
};

use clap::ValueEnum;
use container_machine::Directories;
use tokio::{
    io::AsyncReadExt,
    process::{Child, ChildStderr, Command},
};

use super::options::BuildOptions;
use crate::failure::Failure;

/// Program that builds images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Builder {
    /// buildah
    Buildah,
    /// podman
    Podman,
    /// docker, with buildx
    Docker,
}

impl Builder {
    /// Returns the requested builder, or the first one that is installed.
    pub(super) fn find(requested: Option<Builder>) -> Result<Builder, Failure> {
        match requested {
            Some(builder) if is_installed(builder.name()) => Ok(builder),
            Some(builder) => Err(Failure::new(format!(
                "cannot build the image: {} is not installed",
                builder.name()
            ))),
            None => Builder::value_variants()
                .iter()
                .copied()
                .find(|builder| is_installed(builder.name()))
                .ok_or_else(|| {
                    Failure::new(
                        "cannot build the image: no builder found (install buildah, podman, or docker with \
                         buildx; on Debian: apt install buildah)",
                    )
                }),
        }
    }

    /// Returns the name of the program.
    pub(super) fn name(self) -> &'static str {
        match self {
            Builder::Buildah => "buildah",
            Builder::Podman => "podman",
            Builder::Docker => "docker",
        }
    }

    fn cannot_run(self) -> impl FnOnce(std::io::Error) -> Failure {
        Failure::cannot(format!("run {}", self.name()))
    }

    /// Builds the image. Returns a process that writes the image to its standard output, in the
    /// format of `docker save`.
    pub(super) async fn build(self, build: &BuildOptions) -> Result<Child, Failure> {
        match self {
            Builder::Buildah | Builder::Podman => {
                let scratch =
                    tempfile::tempdir().map_err(Failure::cannot("create a temporary directory"))?;
                let file = scratch.path().join("image");
                let mut command = self.command(build);
                command.arg("--iidfile").arg(&file).arg(&build.context);
                // Standard output is for the digest only.
                command.stdout(Stdio::from(std::io::stderr()));
                let status = command.status().await.map_err(self.cannot_run())?;
                if !status.success() {
                    return Err(self.failed());
                }
                let image =
                    std::fs::read_to_string(file).map_err(Failure::cannot("read the image id"))?;
                self.export(image.trim())
            }
            Builder::Docker => {
                let mut command = self.command(build);
                command
                    .args(["--output", "type=docker,dest=-"])
                    .arg(&build.context);
                let command = command.stdout(Stdio::piped()).kill_on_drop(true);
                command.spawn().map_err(self.cannot_run())
            }
        }
    }

    /// Returns the command line without the context.
    fn command(self, build: &BuildOptions) -> Command {
        let credentials = match self {
            Builder::Buildah | Builder::Podman if !has_credentials() => own_credentials(),
            _ => None,
        };
        let mut command = Command::new(self.name());
        match self {
            Builder::Buildah => command.args(["build", "--layers", "--force-rm"]),
            Builder::Podman => command.arg("build"),
            Builder::Docker => command.args(["buildx", "build"]),
        };
        let reads_stdin = build.file.as_deref() == Some(Path::new("-"));
        command.args(arguments(build)).stdin(if reads_stdin {
            Stdio::inherit()
        } else {
            Stdio::null()
        });
        // buildah runs the steps of a build with crun or runc. Without these, chroot works.
        if self == Builder::Buildah
            && env::var_os("BUILDAH_ISOLATION").is_none()
            && !["crun", "runc"].into_iter().any(is_installed)
        {
            command.env("BUILDAH_ISOLATION", "chroot");
        }
        command.envs(credentials.map(|file| (AUTH_FILE, file)));
        command
    }

    /// Starts exporting an image from the builder's store.
    fn export(self, image: &str) -> Result<Child, Failure> {
        let mut command = Command::new(self.name());
        match self {
            Builder::Buildah => {
                command.args(["push", "--quiet", image, "docker-archive:/dev/stdout"])
            }
            _ => command.args(["save", "--quiet", "--format", "docker-archive", image]),
        };
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
            .kill_on_drop(true)
            .spawn()
            .map_err(self.cannot_run())
    }

    fn failed(self) -> Failure {
        Failure::new(format!("{} failed (output above)", self.name()))
    }

    /// Returns the failure of an export, with the last line that the builder printed.
    pub(super) async fn export_failure(self, errors: Option<ChildStderr>) -> Failure {
        let mut printed = String::new();
        if let Some(mut errors) = errors {
            // If it cannot be read, the failure has no reason.
            let _ = errors.read_to_string(&mut printed).await;
        }
        match printed.lines().last() {
            Some(line) => Failure::new(format!(
                "cannot export the image from {}: {}",
                self.name(),
                line.trim_start_matches("Error: ")
            )),
            None => self.failed(),
        }
    }
}

/// Returns the options that all builders have in common.
fn arguments(build: &BuildOptions) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = Vec::new();
    let mut add = |option: &str, value: &OsStr| arguments.extend([option.into(), value.to_owned()]);
    for tag in &build.tags {
        add("--tag", tag.as_ref());
    }
    for variable in &build.build_args {
        add("--build-arg", variable.as_ref());
    }
    if let Some(file) = &build.file {
        add("--file", file.as_ref());
    }
    if let Some(target) = &build.target {
        add("--target", target.as_ref());
    }
    if let Some(platform) = &build.platform {
        add("--platform", platform.as_ref());
    }
    if build.no_cache {
        arguments.push("--no-cache".into());
    }
    arguments
}

/// Variable that names a credentials file for buildah and podman (containers-auth.json(5)).
const AUTH_FILE: &str = "REGISTRY_AUTH_FILE";

/// Returns whether buildah and podman find credentials of their own or of docker. If they do, the
/// file of this program is not passed: it would be read in place of theirs
/// (containers-auth.json(5)).
fn has_credentials() -> bool {
    let file_in = |variable: &str, path: &str| Some(Path::new(&env::var_os(variable)?).join(path));
    let files = [
        file_in("XDG_RUNTIME_DIR", "containers/auth.json"),
        file_in("XDG_CONFIG_HOME", "containers/auth.json"),
        file_in("HOME", ".config/containers/auth.json"),
        file_in("DOCKER_CONFIG", "config.json"),
        file_in("HOME", ".docker/config.json"),
        file_in("HOME", ".dockercfg"),
    ];
    env::var_os(AUTH_FILE).is_some() || files.into_iter().flatten().any(|file| file.exists())
}

/// Returns the file in which `container registry login` stores credentials, if it exists.
fn own_credentials() -> Option<PathBuf> {
    let directories = Directories::from_environment().ok()?;
    Some(directories.config.join("auth.json")).filter(|file| file.exists())
}

/// Returns whether a program is found in `PATH`.
fn is_installed(name: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|directory| is_program(&directory.join(name)))
}

fn is_program(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok() && path.is_file()
}
