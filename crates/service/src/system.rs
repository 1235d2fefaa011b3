//! What runs here, and why.

use container_api::{
    Ability, AcceleratorInfo, Directories, EngineInfo, HostInfo, KernelInfo, NotUsed, SystemInfo,
};
use container_engine::{Accelerator, EngineSettings, Host as Processor};
use container_kernel::Kernels;
use nix::sys::utsname::uname;

use crate::{Service, configuration::Configuration, error::ServiceError, host::Host};

impl Service {
    /// This computer, what machines run on here, and why not on something else.
    pub(crate) fn system(&self) -> Result<SystemInfo, ServiceError> {
        let configuration = Configuration::read(&self.world.config)?;
        let engine = &configuration.engine;
        let (accelerator, virtualization) = accelerator(engine);
        let (name, host) = (uname().ok(), Host::of_this_process());
        let said = |part: Option<&std::ffi::OsStr>| {
            part.unwrap_or_default().to_string_lossy().into_owned()
        };
        Ok(SystemInfo {
            accelerator,
            virtualization,
            directories: Directories {
                config: self.world.config.clone(),
                data: self.world.data.clone(),
                runtime: self.world.runtime.clone(),
            },
            engine: match container_engine::engine(engine).about() {
                Ok(about) => EngineInfo {
                    problem: None,
                    program: Some(about.program),
                    version: Some(about.version),
                },
                Err(error) => EngineInfo {
                    problem: Some(error.to_string()),
                    program: None,
                    version: None,
                },
            },
            host: HostInfo {
                architecture: said(name.as_ref().map(|it| it.machine())),
                kernel: said(name.as_ref().map(|it| it.release())),
                memory: host.memory,
                processors: host.cores,
            },
            kernel: self.kernel_info(configuration)?,
        })
    }

    fn kernel_info(&self, configuration: Configuration) -> Result<KernelInfo, ServiceError> {
        let recommended = configuration.kernel;
        let none = |problem: String| KernelInfo {
            image: None,
            name: None,
            not_used: Vec::new(),
            problem: Some(problem),
            recommended: recommended.clone(),
            release: None,
            source: None,
        };
        let kernels = match Kernels::of_program(self.world.kernels()) {
            Ok(kernels) => kernels,
            Err(error) => return Ok(none(error.to_string())),
        };
        let used = match kernels.default_kernel() {
            Ok(used) => used,
            Err(error) => return Ok(none(error.to_string())),
        };
        let all = kernels.all()?;
        let others = all.iter().filter(|it| it.name != used.name);
        let mut not_used: Vec<NotUsed> = others
            .map(|it| NotUsed {
                name: it.name.to_string(),
                reason: format!(
                    "another one was chosen: `container system kernel set {}` takes it",
                    it.name
                ),
            })
            .collect();
        if !all.iter().any(|it| it.name.to_string() == "container") {
            not_used.push(NotUsed {
                name: "container".to_owned(),
                reason: "it was not built: `make kernel` does that".to_owned(),
            });
        }
        Ok(KernelInfo {
            image: Some(used.image),
            name: Some(used.name.to_string()),
            not_used,
            problem: None,
            recommended,
            release: Some(used.about.release),
            source: Some(used.about.source),
        })
    }
}

fn accelerator(engine: &EngineSettings) -> (AcceleratorInfo, Ability) {
    let processor = Processor::this();
    let chosen = container_engine::choose(engine);
    let all = [Accelerator::Kvm, Accelerator::Hvf, Accelerator::Tcg];
    let others = all
        .into_iter()
        .filter(|it| chosen.as_ref().ok() != Some(it));
    let not_used = others.map(|it| NotUsed {
        name: it.to_string(),
        reason: processor.obstacle(it).unwrap_or_else(|| match it {
            Accelerator::Tcg => "translating instructions is the slowest way".to_owned(),
            _ => "another one was asked for".to_owned(),
        }),
    });
    let info = AcceleratorInfo {
        not_used: not_used.collect(),
        problem: chosen.as_ref().err().map(ToString::to_string),
        used: chosen.as_ref().ok().map(ToString::to_string),
    };
    let obstacle = match chosen {
        Ok(accelerator) => processor.nesting_obstacle(accelerator),
        Err(error) => Some(error.to_string()),
    };
    let virtualization = Ability {
        available: obstacle.is_none(),
        reason: obstacle,
    };
    (info, virtualization)
}
