//! Description of the host, the engine and the default kernel, on the wire.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The host, and what machines run on: engine, accelerator and default kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SystemInfo {
    /// Accelerator of the engine.
    pub accelerator: AcceleratorInfo,
    /// Directories that the program writes to.
    pub directories: DirectoryInfo,
    /// Engine that runs the virtual machines.
    pub engine: EngineInfo,
    /// Architecture, kernel, memory and processors of the host.
    pub host: HostInfo,
    /// Kernel of machines that name no kernel of their own.
    pub kernel: KernelInfo,
    /// Running machines at the user's last logout; absent from older services.
    #[serde(default)]
    pub logout: Option<LogoutInfo>,
    /// Nested virtualization: machines inside machines.
    pub virtualization: Ability,
}

/// Host that the service runs on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostInfo {
    /// Machine name as printed by `uname -m`.
    pub architecture: String,
    /// Kernel release as printed by `uname -r`.
    pub kernel: String,
    /// Memory in bytes; 0 if not known.
    pub memory: u64,
    /// Processors that the service may use.
    pub processors: u32,
}

/// Engine that runs the virtual machines. In JSON, the fields of one variant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum EngineInfo {
    /// The engine's program was found.
    Usable {
        /// Path of the program.
        program: PathBuf,
        /// Name and version as printed by the program.
        version: String,
    },
    /// No machine can boot.
    Unusable {
        /// Reason, as an error message.
        problem: String,
    },
}

/// Accelerator of the engine: the one in use, and why the others are not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AcceleratorInfo {
    /// Accelerators that are not used.
    pub not_used: Vec<NotUsed>,
    /// Accelerator that machines boot with.
    #[serde(flatten)]
    pub choice: AcceleratorChoice,
}

/// Accelerator that machines boot with. In JSON, the field `used` or the field `problem`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AcceleratorChoice {
    /// The configured accelerator cannot be used, so no machine boots: the reason.
    Problem(String),
    /// Name of the accelerator.
    Used(String),
}

/// An accelerator or kernel that is not used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NotUsed {
    /// Name of the accelerator or kernel.
    pub name: String,
    /// Reason, as half a sentence.
    pub reason: String,
}

/// Kernel of machines that name no kernel of their own. In JSON, the fields of one variant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, rename_all_fields = "camelCase")]
pub enum KernelInfo {
    /// There is a default kernel.
    Usable {
        /// Path of the kernel's image.
        image: PathBuf,
        /// Name of the kernel.
        name: String,
        /// Kernels that are not the default one.
        not_used: Vec<NotUsed>,
        /// Kernel of section `[kernel]` of config.toml.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        recommended: Option<RecommendedKernel>,
        /// Kernel release as printed by `uname -r` in a machine.
        release: String,
        /// Origin of the kernel: a package with its version, a URL or a file.
        source: String,
    },
    /// There is no default kernel.
    Unusable {
        /// Always empty.
        not_used: Vec<NotUsed>,
        /// Reason, as an error message.
        problem: String,
        /// Kernel of section `[kernel]` of config.toml.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        recommended: Option<RecommendedKernel>,
    },
}

impl KernelInfo {
    /// Returns the kernel of section `[kernel]` of config.toml.
    pub fn recommended(&self) -> Option<&RecommendedKernel> {
        match self {
            KernelInfo::Usable { recommended, .. } | KernelInfo::Unusable { recommended, .. } => {
                recommended.as_ref()
            }
        }
    }
}

/// A kernel that can be downloaded: section `[kernel]` of config.toml.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RecommendedKernel {
    /// Path of the kernel in the archive; absent if the URL is that of the kernel itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binary: Option<String>,
    /// Digest of the download: `sha256:` and 64 hexadecimal digits.
    pub digest: String,
    /// URL of the kernel or of an archive that contains it.
    pub url: String,
}

/// Whether something is possible on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "AbilityFields", into = "AbilityFields")]
pub enum Ability {
    /// It is possible.
    Available,
    /// It is not possible.
    Unavailable {
        /// Reason, as half a sentence.
        reason: String,
    },
}

/// The form of [`Ability`] in JSON.
#[derive(Serialize, Deserialize)]
struct AbilityFields {
    available: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl From<AbilityFields> for Ability {
    fn from(fields: AbilityFields) -> Ability {
        if fields.available {
            Ability::Available
        } else {
            Ability::Unavailable {
                reason: fields.reason.unwrap_or_default(),
            }
        }
    }
}

impl From<Ability> for AbilityFields {
    fn from(ability: Ability) -> AbilityFields {
        match ability {
            Ability::Available => AbilityFields {
                available: true,
                reason: None,
            },
            Ability::Unavailable { reason } => AbilityFields {
                available: false,
                reason: Some(reason),
            },
        }
    }
}

/// Running machines at the user's last logout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "machines", content = "reason", rename_all = "camelCase")]
pub enum LogoutInfo {
    /// They continue: the reason, as half a sentence.
    Continue(String),
    /// They are stopped: the reason, as half a sentence.
    Stop(String),
}

/// The config, data and runtime directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DirectoryInfo {
    /// Files that the user writes.
    pub config: PathBuf,
    /// Persistent data.
    pub data: PathBuf,
    /// Sockets and locks.
    pub runtime: PathBuf,
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;

    use super::*;

    fn assert_json<T: Serialize + DeserializeOwned>(json: &str) {
        let value: T = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_string(&value).unwrap(), json);
    }

    #[test]
    fn usable_and_unusable_parts_have_the_fields_of_the_wire_format() {
        assert_json::<EngineInfo>(r#"{"program":"/usr/bin/engine","version":"engine 10.0"}"#);
        assert_json::<EngineInfo>(r#"{"problem":"no"}"#);
        assert_json::<AcceleratorInfo>(
            r#"{"notUsed":[{"name":"kvm","reason":"no"}],"used":"tcg"}"#,
        );
        assert_json::<AcceleratorInfo>(r#"{"notUsed":[],"problem":"no"}"#);
        assert_json::<KernelInfo>(
            r#"{"image":"/k","name":"a","notUsed":[],"recommended":{"digest":"d","url":"u"},"release":"6.1","source":"s"}"#,
        );
        assert_json::<KernelInfo>(r#"{"notUsed":[],"problem":"no"}"#);
        assert_json::<LogoutInfo>(r#"{"machines":"continue","reason":"lingering"}"#);
        assert_json::<LogoutInfo>(r#"{"machines":"stop","reason":"no lingering"}"#);
        assert_json::<Ability>(r#"{"available":true}"#);
        assert_json::<Ability>(r#"{"available":false,"reason":"no"}"#);
    }
}
