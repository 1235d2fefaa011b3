//! `boot`: from a stopped machine to one that serves commands.

use std::path::Path;

use container_api::{Progress, Running};
use container_machine::{BootConfiguration, Bundle, HomeMount, MachineConfiguration, MachineId};
use container_protocol::{InitProgram, local::PortStatus};
use container_runtime::{HomeShare, Launch, NetworkLaunch, Purpose, Runtime, launch};
use tokio::time::sleep;
use uuid::Uuid;

use super::ASK_AGAIN;
use crate::{Service, caller::Caller, configuration::Configuration, error::ServiceError};

/// Room that a boot may need on the host, in bytes.
const LEAST_SPACE: u64 = 64 << 20;

/// Said once, when a machine first boots.
const NO_INIT_SYSTEM: &str = "the image has no init system, so the machine runs a built-in one: \
                              it starts no services by itself";

impl Service {
    /// Boots the machine unless it runs. Whoever asks while it boots gets the same answer.
    pub(crate) async fn boot(
        &self,
        id: &MachineId,
        caller: &Caller,
    ) -> Result<Running, ServiceError> {
        let bundle = self.bundles.get(id)?;
        if let Some(runtime) = self.runtime(id).await?
            && runtime.status().is_up()
        {
            return up(&bundle, &runtime);
        }
        let _lock = self.locks.lock_for(caller, id).await;
        // It may have been deleted, or started, by whoever held the lock.
        let bundle = self.bundles.get(id)?;
        self.boot_locked(id, &bundle, caller).await
    }

    /// As [`boot`](Self::boot), for a caller that holds the machine's lock.
    pub(super) async fn boot_locked(
        &self,
        id: &MachineId,
        bundle: &Bundle,
        caller: &Caller,
    ) -> Result<Running, ServiceError> {
        if let Some(runtime) = self.already_running(id).await? {
            return up(bundle, &runtime);
        }
        let decided = self.decide(id, bundle)?;
        bundle.set_runtime_directory(&decided.runtime_directory)?;
        caller.tell(Progress::step("booting machine"));
        let launched = launch(&decided, |_| ()).await;
        let runtime = launched.map_err(|source| ServiceError::launch(id, source))?;
        if decided.first_boot && runtime.status().init == Some(InitProgram::BuiltIn) {
            caller.tell(Progress::Note(format!("{id}: {NO_INIT_SYSTEM}")));
        }
        if !bundle.boot_configuration()?.publish.is_empty() {
            for problem in problems(&runtime.ports().await?) {
                caller.tell(Progress::Note(format!("{id}: {problem}")));
            }
        }
        up(bundle, &runtime)
    }

    /// A runtime that is there, once it is up: a service that was killed may have begun it.
    pub(super) async fn already_running(
        &self,
        id: &MachineId,
    ) -> Result<Option<Runtime>, ServiceError> {
        loop {
            match self.runtime(id).await? {
                Some(runtime) if runtime.status().is_up() => return Ok(Some(runtime)),
                // Whoever read its disk has gone: the machine's lock is held here.
                Some(runtime) if runtime.status().reads_disk => self.stop_running(id).await?,
                Some(_) => sleep(ASK_AGAIN).await,
                None => return Ok(None),
            }
        }
    }

    pub(super) fn decide(&self, id: &MachineId, bundle: &Bundle) -> Result<Launch, ServiceError> {
        let (machine, boot) = (bundle.configuration()?, bundle.boot_configuration()?);
        self.check(&boot)?;
        super::create::check_home(&boot, &machine.home)?;
        check_space(&bundle.disk())?;
        let configuration = Configuration::read(&self.world.config)?;
        let suffix: String = Uuid::new_v4()
            .simple()
            .to_string()
            .chars()
            .take(6)
            .collect();
        Ok(Launch {
            id: id.clone(),
            purpose: Purpose::Run,
            container_id: format!("{id}-{suffix}"),
            runtime_directory: self.world.runtime_directory(id),
            disk: bundle.disk(),
            disk_capacity: boot.disk_capacity.bytes(),
            stdio_log: bundle.stdio_log(),
            boot_log: bundle.boot_log(),
            lock: bundle.runtime_lock(),
            cpus: boot.cpus.get(),
            memory: boot.memory.bytes(),
            virtualization: boot.virtualization,
            kernel: self.kernel(&boot)?,
            kernel_args: boot.kernel_args.clone(),
            network: Some(NetworkLaunch {
                address: self.bundles.address(id)?,
                policy: configuration.network.policy(),
                published: boot.publish.clone(),
                segment: self.world.segment(),
                name_server: self.world.name_server(),
            }),
            home: home_share(&machine, &boot),
            architecture: machine.platform.architecture,
            user: machine.user_setup,
            shell: machine.shell,
            setup_script: bundle.setup_script(),
            first_boot: !bundle.is_provisioned(),
            init_env: machine.init_environment,
            stop_signal: machine.stop_signal,
            engine: configuration.engine,
        })
    }
}

/// Of ports that were published, why they are not reached.
pub(super) fn problems(ports: &[PortStatus]) -> Vec<String> {
    let published = ports.iter().filter(|port| port.published);
    let problems = published.filter_map(|port| {
        let problem = port.problem.as_ref()?;
        Some(format!("port {} is not published: {problem}", port.port))
    });
    problems.collect()
}

/// Refuses to boot on a full disk, where the engine would stand still at the guest's first write.
fn check_space(disk: &Path) -> Result<(), ServiceError> {
    // A file system that does not tell is one that nothing is known against.
    let Ok(about) = nix::sys::statvfs::statvfs(disk) else {
        return Ok(());
    };
    match about
        .blocks_available()
        .saturating_mul(about.fragment_size())
    {
        free if free < LEAST_SPACE => Err(ServiceError::NoSpace {
            disk: disk.to_owned(),
            free: free >> 20,
        }),
        _ => Ok(()),
    }
}

fn home_share(machine: &MachineConfiguration, boot: &BootConfiguration) -> Option<HomeShare> {
    let read_only = match boot.home_mount {
        HomeMount::None => return None,
        HomeMount::Ro => true,
        HomeMount::Rw => false,
    };
    Some(HomeShare {
        path: machine.home.clone(),
        read_only,
    })
}

/// The machine is up, so its user is set up; whoever began to boot it may not have lived to
/// remember that.
fn up(bundle: &Bundle, runtime: &Runtime) -> Result<Running, ServiceError> {
    if !bundle.is_provisioned() {
        bundle.set_provisioned()?;
    }
    let (machine, boot) = (bundle.configuration()?, bundle.boot_configuration()?);
    Ok(Running {
        socket: runtime.socket().to_owned(),
        shared_home: home_share(&machine, &boot).map(|share| share.path),
        user: machine.user_setup,
    })
}
