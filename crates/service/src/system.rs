//! Description of the host, and of what machines run on.

use std::ffi::OsStr;

use container_api::{
    Ability, AcceleratorChoice, AcceleratorInfo, DirectoryInfo, EngineInfo, FailureKind, HostInfo,
    KernelInfo, LogoutInfo, NotUsed, RecommendedKernel, SystemInfo,
};
use container_engine::{Accelerator, AcceleratorProbe, EngineSettings};
use container_kernel::{Kernels, KernelsError};
use container_systemd::{Logout, at_logout};
use nix::sys::utsname::uname;

use crate::{
    configuration::ConfigurationError, failure::RequestError, host_resources::HostResources,
    service::Service,
};

/// Name of the kernel that `make kernel` builds.
const OWN_KERNEL: &str = "container";

/// The system cannot be described.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SystemError {
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    #[error(transparent)]
    Kernels(#[from] KernelsError),
}

impl RequestError for SystemError {
    fn kind(&self) -> FailureKind {
        FailureKind::Failed
    }
}

impl Service {
    /// Returns the host, the engine, the accelerator and the default kernel.
    pub(crate) async fn system(&self) -> Result<SystemInfo, SystemError> {
        let configuration = self.configuration()?;
        let (accelerator, virtualization) = accelerator(&configuration.engine);
        Ok(SystemInfo {
            accelerator,
            virtualization,
            directories: DirectoryInfo {
                config: self.directories.config.clone(),
                data: self.directories.data.clone(),
                runtime: self.directories.runtime.clone(),
            },
            engine: engine(&configuration.engine),
            host: host(),
            kernel: self.kernel_info(configuration.kernel)?,
            logout: Some(match at_logout().await {
                Logout::Continues(reason) => LogoutInfo::Continue(reason.to_owned()),
                Logout::Stops(reason) => LogoutInfo::Stop(reason.to_owned()),
            }),
        })
    }

    fn kernel_info(
        &self,
        recommended: Option<RecommendedKernel>,
    ) -> Result<KernelInfo, KernelsError> {
        let unusable = |problem: String| KernelInfo::Unusable {
            not_used: Vec::new(),
            problem,
            recommended: recommended.clone(),
        };
        let kernels = match Kernels::from_installation(self.directories.kernels()) {
            Ok(kernels) => kernels,
            Err(error) => return Ok(unusable(error.to_string())),
        };
        let used = match kernels.default_kernel() {
            Ok(used) => used,
            Err(error) => return Ok(unusable(error.to_string())),
        };
        let all = kernels.all()?;
        let others = all.iter().filter(|kernel| kernel.name != used.name);
        let mut not_used: Vec<NotUsed> = others
            .map(|kernel| NotUsed {
                name: kernel.name.to_string(),
                reason: format!(
                    "not the default kernel (select it with: container system kernel set {})",
                    kernel.name
                ),
            })
            .collect();
        if !all
            .iter()
            .any(|kernel| kernel.name.to_string() == OWN_KERNEL)
        {
            not_used.push(NotUsed {
                name: OWN_KERNEL.to_owned(),
                reason: "not built (build it with: make kernel)".to_owned(),
            });
        }
        Ok(KernelInfo::Usable {
            image: used.image,
            name: used.name.to_string(),
            not_used,
            recommended,
            release: used.metadata.release,
            source: used.metadata.source,
        })
    }
}

fn engine(settings: &EngineSettings) -> EngineInfo {
    match container_engine::engine(settings).about() {
        Ok(about) => EngineInfo::Usable {
            program: about.program,
            version: about.version,
        },
        Err(error) => EngineInfo::Unusable {
            problem: error.to_string(),
        },
    }
}

fn host() -> HostInfo {
    let (name, resources) = (uname().ok(), HostResources::detect());
    let text = |part: Option<&OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    HostInfo {
        architecture: text(name.as_ref().map(|name| name.machine())),
        kernel: text(name.as_ref().map(|name| name.release())),
        memory: resources.memory,
        processors: resources.cores,
    }
}

fn accelerator(settings: &EngineSettings) -> (AcceleratorInfo, Ability) {
    let probe = AcceleratorProbe::from_host();
    let chosen = container_engine::choose(settings);
    let all = [Accelerator::Kvm, Accelerator::Hvf, Accelerator::Tcg];
    let others = all
        .into_iter()
        .filter(|accelerator| chosen.as_ref().ok() != Some(accelerator));
    let not_used = others.map(|accelerator| NotUsed {
        name: accelerator.to_string(),
        reason: probe
            .obstacle(accelerator)
            .unwrap_or_else(|| match accelerator {
                Accelerator::Tcg => "emulation is the slowest accelerator".to_owned(),
                _ => "config.toml selects another one".to_owned(),
            }),
    });
    let info = AcceleratorInfo {
        not_used: not_used.collect(),
        choice: match &chosen {
            Ok(used) => AcceleratorChoice::Used(used.to_string()),
            Err(error) => AcceleratorChoice::Problem(error.to_string()),
        },
    };
    let obstacle = match chosen {
        Ok(accelerator) => probe.nesting_obstacle(accelerator),
        Err(error) => Some(error.to_string()),
    };
    let virtualization = match obstacle {
        None => Ability::Available,
        Some(reason) => Ability::Unavailable { reason },
    };
    (info, virtualization)
}
