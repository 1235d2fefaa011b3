//! Options of requests that reach a registry: the values of the request, completed by the
//! configuration.

use std::num::NonZeroUsize;

use container_api::CallerEnvironment;
use container_image::{InvalidPlatform, InvalidScheme, Platform, PullOptions, Scheme};
use container_machine::Directories;

use crate::configuration::Configuration;

/// Returns the options of a pull from the image's registry alone.
pub(crate) fn pull_options(
    directories: &Directories,
    configuration: &Configuration,
    environment: &CallerEnvironment,
    scheme: Scheme,
    max_concurrent_downloads: Option<NonZeroUsize>,
) -> PullOptions {
    let mut options = PullOptions {
        scheme,
        environment: environment.clone().into_variables().into(),
        registries: configuration.registries(directories),
        ..PullOptions::default()
    };
    if let Some(downloads) = max_concurrent_downloads {
        options.max_concurrent_downloads = downloads.get();
    }
    options
}

/// Returns the requested platform, or the host's if the request names none.
pub(crate) fn platform(requested: Option<&str>) -> Result<Platform, InvalidPlatform> {
    match requested {
        Some(platform) => platform.parse(),
        None => Ok(Platform::host()),
    }
}

/// Returns the requested scheme, or the automatic choice if the request names none.
pub(crate) fn scheme(requested: Option<&str>) -> Result<Scheme, InvalidScheme> {
    Ok(requested.map(str::parse).transpose()?.unwrap_or_default())
}
