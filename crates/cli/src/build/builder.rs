//! The programs that build images, and how each is told to.

use std::{
    env,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::Stdio,
};

use clap::ValueEnum;
use container_machine::World;
use tokio::{
    io::AsyncReadExt,
    process::{Child, ChildStderr, Command},
};

use super::Build;
use crate::failure::Failure;

/// A program that builds images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Builder {
    /// buildah
    Buildah,
    /// podman
    Podman,
    /// docker, with buildx
    Docker,
}

impl Builder {
    /// The builder that was asked for, else the first that is installed.
    pub fn chosen(asked: Option<Builder>) -> Result<Builder, Failure> {
        match asked {
            Some(builder) if is_installed(builder.name()) => Ok(builder),
            Some(builder) => Err(Failure::new(format!(
                "building an image: {} is not installed",
                builder.name()
            ))),
            None => Builder::value_variants()
                .iter()
                .copied()
                .find(|builder| is_installed(builder.name()))
                .ok_or_else(|| {
                    Failure::new(
                        "building an image: no builder is installed; install buildah (Debian: \
                         `apt install buildah`), podman, or docker with buildx",
                    )
                }),
        }
    }

    /// The program.
    pub fn name(self) -> &'static str {
        match self {
            Builder::Buildah => "buildah",
            Builder::Podman => "podman",
            Builder::Docker => "docker",
        }
    }

    /// Builds the image. Returns a program whose output is the image, as `docker save` has it.
    pub async fn build(self, build: &Build) -> Result<Child, Failure> {
        match self {
            Builder::Buildah | Builder::Podman => {
                let scratch = tempfile::tempdir()?;
                let file = scratch.path().join("image");
                let mut command = self.command(build);
                command.arg("--iidfile").arg(&file).arg(&build.context);
                // What it tells is not what we print.
                command.stdout(Stdio::from(std::io::stderr()));
                let status = command.status().await?;
                if !status.success() {
                    return Err(Failure::new(format!(
                        "{} failed: its last words are above",
                        self.name()
                    )));
                }
                let image = std::fs::read_to_string(file)?;
                self.export(image.trim())
            }
            Builder::Docker => {
                let mut command = self.command(build);
                command
                    .args(["--output", "type=docker,dest=-"])
                    .arg(&build.context);
                Ok(command.stdout(Stdio::piped()).kill_on_drop(true).spawn()?)
            }
        }
    }

    /// The command line without the context.
    fn command(self, build: &Build) -> Command {
        let logins = match self {
            Builder::Buildah | Builder::Podman if !has_logins() => our_logins(),
            _ => None,
        };
        let mut command = Command::new(self.name());
        match self {
            Builder::Buildah => command.args(["build", "--layers", "--force-rm"]),
            Builder::Podman => command.arg("build"),
            Builder::Docker => command.args(["buildx", "build"]),
        };
        let is_read = build.file.as_deref() == Some(Path::new("-"));
        command.args(arguments(build)).stdin(if is_read {
            Stdio::inherit()
        } else {
            Stdio::null()
        });
        // Without a container runtime a root directory is enough.
        if self == Builder::Buildah
            && env::var_os("BUILDAH_ISOLATION").is_none()
            && !["crun", "runc"].into_iter().any(is_installed)
        {
            command.env("BUILDAH_ISOLATION", "chroot");
        }
        command.envs(logins.map(|file| (AUTH_FILE, file)));
        command
    }

    /// Reads a built image out of the builder's store.
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
        Ok(command.kill_on_drop(true).spawn()?)
    }

    /// Why the image did not come out whole.
    pub async fn failed(self, errors: Option<ChildStderr>) -> Failure {
        let mut said = String::new();
        if let Some(mut errors) = errors {
            // What cannot be read cannot be told.
            let _ = errors.read_to_string(&mut said).await;
        }
        match said.lines().last() {
            Some(line) => Failure::new(format!(
                "taking the image from {}: {}",
                self.name(),
                line.trim_start_matches("Error: ")
            )),
            None => Failure::new(format!("{} failed: its last words are above", self.name())),
        }
    }
}

/// What all builders understand alike.
fn arguments(build: &Build) -> Vec<OsString> {
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

/// What tells buildah and podman of another file with logins (containers-auth.json(5)).
const AUTH_FILE: &str = "REGISTRY_AUTH_FILE";

/// Whether buildah and podman find logins of their own or of docker's; they read one file only that they are
/// told of (containers-auth.json(5)).
fn has_logins() -> bool {
    let below = |variable: &str, path: &str| Some(Path::new(&env::var_os(variable)?).join(path));
    let files = [
        below("XDG_RUNTIME_DIR", "containers/auth.json"),
        below("XDG_CONFIG_HOME", "containers/auth.json"),
        below("HOME", ".config/containers/auth.json"),
        below("DOCKER_CONFIG", "config.json"),
        below("HOME", ".docker/config.json"),
        below("HOME", ".dockercfg"),
    ];
    env::var_os(AUTH_FILE).is_some() || files.into_iter().flatten().any(|file| file.exists())
}

/// The file that `container registry login` keeps, if it is there.
fn our_logins() -> Option<PathBuf> {
    let world = World::of_environment().ok()?;
    Some(world.config.join("auth.json")).filter(|file| file.exists())
}

/// Whether a program of that name can be run.
fn is_installed(name: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|directory| is_program(&directory.join(name)))
}

fn is_program(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok() && path.is_file()
}
