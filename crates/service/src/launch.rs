//! One boot of a machine: settings, launch of the runtime, reply.
//!
//! `boot`, `create` and `commit` boot machines; all of them hold the machine's lock.

use std::path::PathBuf;

use container_api::{BootRequest, FailureKind, Progress, Running};
use container_engine::disk::{self, DiskError};
use container_machine::{
    BootConfiguration, Bundle, BundleError, Directories, FreeSpace, HomeMount,
    MachineConfiguration, MachineId, SshAgentUse, last_lines,
};
use container_protocol::{BootOccasion, GuestTimeZone, InitProgram};
use container_runtime::{
    FindError, HomeShare, Launch, LaunchError, NetworkLaunch, Purpose, RunSettings, Runtime, launch,
};
use uuid::Uuid;

use crate::{
    checks::{CheckError, check_home, check_isolation, check_kernel, check_resources, check_space},
    configuration::{ConfigurationError, TimeZoneSetting},
    exclusions,
    failure::RequestError,
    forwarded_sockets::{resolve_sockets, socket_problems},
    host_resources::HostResources,
    machines::remove_expired,
    mounts::{self, mount_problems},
    published_ports::publish_problems,
    runtime::RuntimeError,
    service::Service,
    stream_client::StreamClient,
};

/// Lines of the runtime's log in the error of a runtime that ended.
const LOG_LINES: usize = 10;

/// Note about a machine that was started for a rescue and is to be used as usual.
const IN_RESCUE: &str = "running in a rescue, without its services (end it with: container machine \
                         stop)";

/// Note at the first boot of a machine whose image has no init system.
const NO_INIT_SYSTEM: &str = "the image has no init system, so the machine runs a built-in one, \
                              which starts no services";

/// A machine cannot be booted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootError {
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    #[error(transparent)]
    Check(#[from] CheckError),
    #[error(
        "machine {0:?} is running, so it cannot be started for a rescue (stop it first with: container machine stop {0})"
    )]
    Running(MachineId),
    #[error(
        "machine {0:?} is suspended, so it cannot be started for a rescue (resume it with: \
         container machine start {0}, or give its memory up with: container machine stop --force \
         {0})"
    )]
    Suspended(MachineId),
    #[error("machine {0:?} is not suspended any more")]
    NotSuspended(MachineId),
    #[error("cannot boot machine {id:?}: {cause}")]
    Launch { id: MachineId, cause: LaunchError },
    #[error(
        "cannot boot machine {id:?}: its runtime process ended; last lines of its log:\n{last_lines}"
    )]
    RuntimeEnded { id: MachineId, last_lines: String },
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Ports(FindError),
    #[error(transparent)]
    Sockets(FindError),
    #[error(transparent)]
    Mounts(FindError),
}

impl RequestError for BootError {
    fn kind(&self) -> FailureKind {
        match self {
            BootError::Bundle(error) => error.kind(),
            BootError::Runtime(error) => error.kind(),
            BootError::Check(error) => error.kind(),
            BootError::Running(_) | BootError::Suspended(_) | BootError::NotSuspended(_) => {
                FailureKind::Invalid
            }
            BootError::Configuration(_)
            | BootError::Launch { .. }
            | BootError::Disk(_)
            | BootError::RuntimeEnded { .. }
            | BootError::Ports(_)
            | BootError::Sockets(_)
            | BootError::Mounts(_) => FailureKind::Failed,
        }
    }
}

/// Sends the client a note if a running machine cannot be used as usual.
pub(crate) fn note_state(
    id: &MachineId,
    runtime: &Runtime,
    request: &BootRequest,
    client: &StreamClient,
) {
    let status = runtime.status();
    if status.init() == Some(&InitProgram::Rescue) && !request.rescue {
        client.report(Progress::Note(format!("{id}: {IN_RESCUE}")));
    }
    if let Some(reason) = &status.pause_reason {
        client.report(Progress::Note(format!(
            "{id}: paused, because the host cannot write its disk ({reason}); it continues when \
             there is space"
        )));
    }
}

impl Service {
    /// Boots the machine, whose lock the caller holds, unless it is running.
    pub(crate) async fn boot_locked(
        &self,
        id: &MachineId,
        bundle: &Bundle,
        request: &BootRequest,
        client: &StreamClient,
    ) -> Result<Running, BootError> {
        if let Some(runtime) = self.booted_runtime(id).await? {
            note_state(id, &runtime, request, client);
            return self.running(bundle, &runtime, client);
        }
        let removed = remove_expired(bundle).and_then(|()| Ok(bundle.remove_unused_memory()?));
        if let Err(error) = removed {
            tracing::warn!("cannot remove expired snapshots of machine {id:?}: {error}");
        }
        let mut settings = self.launch_settings(id, bundle)?;
        if let Purpose::Run(settings) = &mut settings.purpose {
            settings.rescue = request.rescue;
        }
        let occasion = bundle.boot_occasion();
        let step = if bundle.is_suspended() {
            if request.rescue {
                return Err(BootError::Suspended(id.clone()));
            }
            "resuming machine"
        } else if request.if_suspended {
            return Err(BootError::NotSuspended(id.clone()));
        } else {
            "booting machine"
        };
        client.report(Progress::step(step));
        let least = settings.least_free_space;
        let free = FreeSpace::at(&bundle.disk());
        let warnings = [
            free.and_then(|free| free.warning(least)),
            HostResources::detect().low_memory(settings.memory),
        ];
        for warning in warnings.into_iter().flatten() {
            client.report(Progress::Note(format!("{id}: {warning}")));
        }
        let unknown = bundle.boot_configuration()?.unknown;
        if !unknown.is_empty() {
            let names: Vec<&str> = unknown.keys().map(String::as_str).collect();
            let names = names.join(", ");
            client.report(Progress::Note(format!(
                "{id}: This version of the program ignores settings of the machine: {names}"
            )));
        }
        let runtime = launch_runtime(bundle, &settings).await?;
        if occasion == BootOccasion::First && runtime.status().init() == Some(&InitProgram::BuiltIn)
        {
            client.report(Progress::Note(format!("{id}: {NO_INIT_SYSTEM}")));
        }
        if !bundle.boot_configuration()?.publish.is_empty() {
            let ports = runtime.ports().await.map_err(BootError::Ports)?;
            for problem in publish_problems(&ports) {
                client.report(Progress::Note(format!("{id}: {problem}")));
            }
        }
        if !bundle.boot_configuration()?.mounts.is_empty() {
            let problems = runtime.mount_problems().await.map_err(BootError::Mounts)?;
            for problem in mount_problems(&problems) {
                client.report(Progress::Note(format!("{id}: {problem}")));
            }
        }
        let sockets = bundle.boot_configuration()?.sockets;
        if !sockets.is_empty() {
            let (_, mut problems) = resolve_sockets(&sockets, &settings.runtime_directory);
            let unusable = runtime.socket_problems().await;
            problems.extend(socket_problems(&unusable.map_err(BootError::Sockets)?));
            for problem in problems {
                client.report(Progress::Note(format!("{id}: {problem}")));
            }
        }
        self.running(bundle, &runtime, client)
    }

    /// Returns the reply for a machine that has booted.
    pub(crate) fn running(
        &self,
        bundle: &Bundle,
        runtime: &Runtime,
        client: &StreamClient,
    ) -> Result<Running, BootError> {
        // A machine that has booted has its user set up, except in a rescue. Recorded here and not
        // at the launch, because the service that launched it may have been killed before.
        let is_rescue = runtime.status().init() == Some(&InitProgram::Rescue);
        if !is_rescue {
            bundle.note_boot()?;
        }
        let (machine, boot) = (bundle.configuration()?, bundle.boot_configuration()?);
        let ssh_agent = match self.configuration() {
            _ if boot.isolated => SshAgentUse::Never,
            Ok(configuration) => configuration.ssh_agent(),
            // A command runs also while the configuration cannot be read.
            Err(error) => {
                client.report(Progress::Note(format!(
                    "The machine gets your SSH agent only with --ssh-agent: {error}"
                )));
                SshAgentUse::Never
            }
        };
        Ok(Running {
            socket: runtime.socket().to_owned(),
            shared_home: (boot.home_mount != HomeMount::None).then_some(machine.home),
            mounts: boot.mounts,
            user: machine.user_setup,
            ssh_agent,
            isolated: boot.isolated,
            boot: runtime.status().boot.clone(),
        })
    }

    /// Checks that the machine can boot, and returns all settings of the boot.
    pub(crate) fn launch_settings(
        &self,
        id: &MachineId,
        bundle: &Bundle,
    ) -> Result<Launch, BootError> {
        let (machine, boot) = (bundle.configuration()?, bundle.boot_configuration()?);
        check_resources(&boot)?;
        check_isolation(&boot)?;
        let kernel = check_kernel(&self.directories, &boot)?;
        check_home(&boot, &machine.home)?;
        check_space(&bundle.disk())?;
        let disk = bundle.disk_file(&bundle.current_disk_file()?);
        disk::find_base(&disk, &self.images.bases())?;
        let configuration = self.configuration()?;
        let runtime_directory = self.directories.runtime_directory(id);
        let (sockets, _) = resolve_sockets(&boot.sockets, &runtime_directory);
        Ok(Launch {
            id: id.clone(),
            container_id: boot_name(id),
            runtime_directory,
            disk,
            disk_capacity: boot.disk_capacity.bytes(),
            least_free_space: configuration.machine.free_space,
            stdio_log: bundle.stdio_log(),
            boot_log: bundle.boot_log(),
            lock: bundle.runtime_lock(),
            cpus: boot.cpus.get(),
            memory: boot.memory.bytes(),
            virtualization: boot.virtualization,
            kernel,
            kernel_args: boot.kernel_args.clone(),
            purpose: Purpose::Run(Box::new(RunSettings {
                network: NetworkLaunch {
                    address: self.bundles.address(id)?,
                    policy: configuration.network.policy(),
                    egress: boot.egress_rules(),
                    published: boot.publish.clone(),
                    segment: self.directories.segment(),
                    name_server: self.directories.name_server(),
                },
                sockets,
                home: home_share(&machine, &boot, &self.directories),
                mounts: mounts::shares(&boot.mounts, &self.directories),
                user_home: user_home(&machine, &boot),
                time_zone: time_zone(&configuration.machine.time_zone, bundle),
                user: machine.user_setup,
                shell: machine.shell,
                setup_script: bundle.setup_script(),
                occasion: bundle.boot_occasion(),
                rescue: false,
                isolated: boot.isolated,
                init_env: machine.init_environment,
                stop_signal: machine.stop_signal,
            })),
            architecture: machine.platform.architecture,
            templates: configuration
                .uses_templates()
                .then(|| self.directories.templates()),
            engine: configuration.engine,
            suspended: bundle.suspended(),
            last_runtime_directory: self.runtime_directory(id, bundle)?,
            idle_suspend: boot.idle_suspend,
        })
    }
}

/// Starts the runtime, and returns it after the machine has booted.
pub(crate) async fn launch_runtime(
    bundle: &Bundle,
    settings: &Launch,
) -> Result<Runtime, BootError> {
    bundle.set_runtime_directory(&settings.runtime_directory)?;
    let id = settings.id.clone();
    launch(settings).await.map_err(|cause| match cause {
        // The log may be removed together with the machine, so the error quotes it.
        LaunchError::Died { log } => BootError::RuntimeEnded {
            id,
            last_lines: last_lines(&log, LOG_LINES),
        },
        cause => BootError::Launch { id, cause },
    })
}

/// Returns a new name for a boot: the machine's id and six random characters.
fn boot_name(id: &MachineId) -> String {
    let random = Uuid::new_v4().simple().to_string();
    format!("{id}-{}", random.chars().take(6).collect::<String>())
}

fn home_share(
    machine: &MachineConfiguration,
    boot: &BootConfiguration,
    directories: &Directories,
) -> Option<HomeShare> {
    let read_only = match boot.home_mount {
        HomeMount::None => return None,
        HomeMount::Ro => true,
        HomeMount::Rw => false,
    };
    Some(HomeShare {
        path: machine.home.clone(),
        read_only,
        hidden: exclusions::hidden(&machine.home, directories),
        private: exclusions::private(&machine.home, &boot.private_home),
    })
}

/// Returns the user's home directory in the machine: the one of the host, except for root without a
/// shared home. Returns nothing for the usual one.
fn user_home(machine: &MachineConfiguration, boot: &BootConfiguration) -> Option<PathBuf> {
    let is_shared = boot.home_mount != HomeMount::None;
    // passwd(5) cannot contain a path with these characters.
    let can_be_in_passwd = !machine.home.to_str()?.contains([':', '\n']);
    (can_be_in_passwd && (is_shared || machine.user_setup.uid != 0)).then(|| machine.home.clone())
}

/// Returns the time zone that the first boot sets.
fn time_zone(setting: &TimeZoneSetting, bundle: &Bundle) -> Option<GuestTimeZone> {
    if bundle.is_provisioned() {
        return None;
    }
    setting.resolve()
}
