//! Reads and checks `config.toml`.

use std::{collections::BTreeMap, env, fs, io, path::Path};

use container_api::RecommendedKernel;
use container_engine::EngineSettings;
use container_image::{Reference, Registries, check_ca_file};
use container_machine::{BootConfiguration, Directories, KernelParameters, Memory, SshAgentUse};
use container_protocol::EgressMode;
use serde::Deserialize;

use super::{
    file::{ConfigurationError, ConfigurationFile},
    sections::{ImageSettings, MachineDefaults, NetworkSettings, RegistrySettings},
};
use crate::host_resources::{HostLimitError, HostResources};

/// Environment variable that disables templates, as `[machine] templates` does.
const TEMPLATES_VARIABLE: &str = "CONTAINER_TEMPLATES";

/// Content of `config.toml`. A missing section or value has its default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Configuration {
    /// Defaults for new machines.
    pub(crate) machine: MachineDefaults,
    /// Local stores and limits of images.
    pub(crate) image: ImageSettings,
    /// Registries.
    pub(crate) registry: RegistrySettings,
    /// Networks of machines.
    pub(crate) network: NetworkSettings,
    /// Program, accelerator and options of the engine.
    pub(crate) engine: EngineSettings,
    /// The kernel that `container system kernel set --recommended` downloads.
    pub(crate) kernel: Option<RecommendedKernel>,
    /// The file this was read from; absent if there is none.
    #[serde(skip)]
    file: Option<ConfigurationFile>,
}

impl Configuration {
    /// Reads `config.toml` in this directory. If it is missing, every value has its default.
    pub(crate) fn read(directory: &Path) -> Result<Configuration, ConfigurationError> {
        let path = directory.join("config.toml");
        match fs::read_to_string(&path) {
            Ok(text) => {
                let file = ConfigurationFile { path, text };
                let configuration: Configuration =
                    toml::from_str(&file.text).map_err(|error| file.malformed(&error))?;
                Ok(Configuration {
                    file: Some(file),
                    ..configuration
                })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Configuration::default()),
            Err(cause) => Err(ConfigurationError::Read { path, cause }),
        }
    }

    /// Refuses values that are well-formed, but that this host cannot provide or that name no
    /// registry or program.
    pub(crate) fn check(&self) -> Result<(), ConfigurationError> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        self.check_machine(file)?;
        self.check_registries(file)?;
        let program = self.engine.program.as_ref();
        if program.is_some_and(|program| program.as_os_str().is_empty()) {
            return Err(file.invalid(&["engine", "program"], "the path of the program is empty"));
        }
        Ok(())
    }

    fn check_machine(&self, file: &ConfigurationFile) -> Result<(), ConfigurationError> {
        // A default that was computed from the host's resources is never an error of the file.
        match HostResources::detect().check(&self.boot_defaults()) {
            Err(error @ HostLimitError::Cpus { .. }) if self.machine.cpus.is_some() => {
                return Err(file.invalid(&["machine", "cpus"], error));
            }
            Err(error @ HostLimitError::Memory { .. }) if self.machine.memory.is_some() => {
                return Err(file.invalid(&["machine", "memory"], error));
            }
            _ => {}
        }
        match &self.machine.kernel {
            Some(kernel) => container_kernel::check_file(kernel)
                .map_err(|error| file.invalid(&["machine", "kernel"], error)),
            None => Ok(()),
        }
    }

    fn check_registries(&self, file: &ConfigurationFile) -> Result<(), ConfigurationError> {
        let domain = &self.registry.domain;
        if domain.contains('/') || Reference::parse("any", domain).is_err() {
            let reason = "a registry is a host name with an optional port";
            return Err(file.invalid(&["registry", "domain"], reason));
        }
        for (host, settings) in &self.registry.host {
            if let Some(ca) = &settings.ca {
                check_ca_file(ca).map_err(|error| {
                    file.invalid(&["registry", "host", host.as_str(), "ca"], error)
                })?;
            }
        }
        Ok(())
    }

    /// Returns the settings of registries, with the file of this program's credentials for them.
    pub(crate) fn registries(&self, directories: &Directories) -> Registries {
        Registries {
            own_credentials: Some(directories.credentials()),
            hosts: self.registry.host.clone(),
        }
    }

    /// Returns whether machines start from templates.
    pub(crate) fn uses_templates(&self) -> bool {
        let is_disabled = env::var(TEMPLATES_VARIABLE).is_ok_and(|it| it == "false");
        self.machine.templates && !is_disabled
    }

    /// Returns when machines may use the SSH agent of clients.
    pub(crate) fn ssh_agent(&self) -> SshAgentUse {
        self.machine.ssh_agent
    }

    /// Returns the boot configuration of a machine for which nothing is requested.
    pub(crate) fn boot_defaults(&self) -> BootConfiguration {
        let (machine, host) = (&self.machine, HostResources::detect());
        BootConfiguration {
            allow: Vec::new(),
            cpus: machine.cpus.unwrap_or_else(|| host.default_cpus()),
            disk_capacity: machine.disk_size.unwrap_or_default(),
            egress: EgressMode::default(),
            home_mount: machine.home_mount.unwrap_or_default(),
            idle_suspend: machine.idle_suspend,
            isolated: false,
            kernel: machine.kernel.clone(),
            kernel_args: KernelParameters::default(),
            memory: machine
                .memory
                .unwrap_or_else(|| Memory::half_of(host.memory)),
            mounts: Vec::new(),
            private_home: machine.private_home.clone().unwrap_or_default(),
            publish: Vec::new(),
            sockets: Vec::new(),
            virtualization: machine.virtualization.unwrap_or_default(),
            unknown: BTreeMap::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use container_image::{Limits, LocalStore, Scheme};
    use container_machine::HomeMount;

    use super::*;

    fn read(text: &str) -> Result<Configuration, String> {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("config.toml"), text).unwrap();
        Configuration::read(directory.path()).map_err(|error| error.to_string())
    }

    #[test]
    fn every_value_is_optional() {
        assert_eq!(read("").unwrap().registry.domain, "docker.io");
        let configuration = read("[machine]\ncpus = 2\nmemory = \"3G\"\ndisk-size = \"20G\"\nhome-mount = \"ro\"\n[engine]\naccelerator = \"tcg\"\n").unwrap();
        let boot = configuration.boot_defaults();
        assert_eq!(
            (boot.cpus.get(), boot.memory.bytes(), boot.home_mount),
            (2, 3 << 30, HomeMount::Ro)
        );
        assert_eq!(boot.disk_capacity.bytes(), 20 << 30);
        assert!(read("").unwrap().boot_defaults().cpus.get() >= 4);
        let private = read("[machine]\nprivate-home = [\"~/.cache\"]\n").unwrap();
        let private = private.boot_defaults().private_home;
        assert_eq!(private.to_string(), ".cache");
        let free = read("[machine]\nfree-space = \"500M\"\n").unwrap();
        assert_eq!(free.machine.free_space.bytes(), 500 << 20);
        assert_eq!(read("").unwrap().machine.free_space.bytes(), 2 << 30);
        let idle = read("[machine]\nidle-suspend = \"30m\"\n").unwrap();
        assert_eq!(idle.boot_defaults().idle_suspend.to_string(), "30m");
        let error = read("[machine]\nprivate-home = [\"/etc\"]\n").unwrap_err();
        assert!(
            error.contains("line 2") && error.contains("/etc"),
            "{error}"
        );
    }

    #[test]
    fn local_stores_are_searched_in_order() {
        assert_eq!(read("").unwrap().image.local_stores.len(), 2);
        let read = |text: &str| read(text).map(|read| read.image.local_stores);
        let reversed = "[image]\nlocal-stores = [\"containers-storage\", \"docker\"]\n";
        let expected = [LocalStore::ContainersStorage, LocalStore::Docker];
        assert_eq!(read(reversed).unwrap(), expected);
        assert_eq!(read("[image]\nlocal-stores = []\n").unwrap(), []);
        let error = read("[image]\nlocal-stores = [\"dockr\"]\n").unwrap_err();
        assert!(
            error.contains("line 2") && error.contains("dockr"),
            "{error}"
        );
    }

    #[test]
    fn image_limits_can_be_set() {
        assert_eq!(read("").unwrap().image.limits(), Limits::default());
        let set = read("[image]\nmost-bytes = 1_000_000\n").unwrap().image;
        assert_eq!((set.most_bytes, set.most_entries), (1_000_000, 10_000_000));
        assert!(read("[image]\nmost-bytes = -1\n").is_err());
    }

    #[test]
    fn an_error_names_file_line_and_key() {
        let error = read("[machine]\ncpuz = 2\n").unwrap_err();
        assert!(
            error.contains("config.toml") && error.contains("line 2") && error.contains("cpuz"),
            "{error}"
        );
        let error = read("\n[machine]\nmemory = \"12\"\n").unwrap_err();
        assert!(
            error.contains("line 3") && error.contains("memory"),
            "{error}"
        );
        let error = read("[engine]\naccelerator = \n").unwrap_err();
        assert!(error.contains("line 2") && !error.contains('\n'), "{error}");
    }

    #[test]
    fn a_value_that_this_host_cannot_provide_is_named() {
        for (text, key) in [
            ("[registry]\n[machine]\ncpus = 5000\n", "cpus"),
            ("\n[machine]\nmemory = \"900T\"\n", "memory"),
            ("[machine]\n\nkernel = \"/no/such\"\n", "kernel"),
            ("[machine]\n\nkernel = \"\"\n", "kernel"),
            ("[registry]\n\ndomain = \"http://x\"\n", "domain"),
            ("[registry]\n\ndomain = \"\"\n", "domain"),
            ("[engine]\n\nprogram = \"\"\n", "program"),
        ] {
            let error = read(text).unwrap().check().unwrap_err().to_string();
            for part in ["config.toml", "line 3", key] {
                assert!(error.contains(part), "{text}: {error}");
            }
        }
        let valid = "[machine]\ncpus = 2\n[registry]\ndomain = \"localhost:5000\"\n";
        assert!(read(valid).unwrap().check().is_ok());
    }

    #[test]
    fn a_registry_has_its_own_settings() {
        let text = "[registry.host.\"docker.io\"]\nmirrors = [\"mirror.example/hub\"]\n\
                    [registry.host.\"10.0.0.1:5000\"]\nscheme = \"https\"\n";
        let hosts = read(text).unwrap().registry.host;
        let settings: Vec<_> = hosts.values().collect();
        assert_eq!(settings[0].scheme, Scheme::Https);
        assert_eq!(settings[1].mirrors, ["mirror.example/hub".parse().unwrap()]);
    }

    #[test]
    fn an_error_in_registry_settings_is_named() {
        let host = "\n[registry.host.\"quay.io\"]\n";
        for (text, key) in [
            ("mirrors = [\"https://x\"]\n", "mirrors"),
            ("mirrors = \"x\"\n", "mirrors"),
            ("scheme = \"ftp\"\n", "scheme"),
            ("mirror = []\n", "mirror"),
        ] {
            let error = read(&format!("{host}{text}")).unwrap_err();
            assert!(error.contains("line 3") && error.contains(key), "{error}");
        }
        let error = read("[registry.host.\"a/b\"]\nscheme = \"http\"\n").unwrap_err();
        assert!(error.contains("line 1") && error.contains("a/b"), "{error}");
        let configuration = read(&format!("{host}ca = \"/no/such.crt\"\n")).unwrap();
        let error = configuration.check().unwrap_err().to_string();
        assert!(
            error.contains("line 3") && error.contains("/no/such.crt"),
            "{error}"
        );
    }
}
