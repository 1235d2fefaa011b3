//! Options that all builders have in common.

use std::path::PathBuf;

use clap::{Args, ValueHint};

/// Options that are passed on to the builder.
#[derive(Debug, Args)]
pub(super) struct BuildOptions {
    /// Directory that the build can copy from.
    #[arg(default_value = ".", value_hint = ValueHint::DirPath)]
    pub context: PathBuf,

    /// Reference for the image: [REGISTRY/]REPOSITORY[:TAG]; repeatable.
    #[arg(short, long = "tag", value_name = "NAME")]
    pub tags: Vec<String>,

    /// Path of the Dockerfile, or - for standard input; default: Dockerfile or Containerfile in the
    /// context.
    #[arg(short, long, value_hint = ValueHint::FilePath)]
    pub file: Option<PathBuf>,

    /// Build argument, NAME=VALUE; repeatable.
    #[arg(long = "build-arg", value_name = "NAME=VALUE")]
    pub build_args: Vec<String>,

    /// Stage to end at.
    #[arg(long, value_name = "STAGE")]
    pub target: Option<String>,

    /// Platform of the image, OS/ARCH[/VARIANT].
    #[arg(long)]
    pub platform: Option<String>,

    /// Do not use cached steps.
    #[arg(long)]
    pub no_cache: bool,
}
