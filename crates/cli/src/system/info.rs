//! `container system info`

use clap::Args;
use container_api::{
    Ability, AcceleratorChoice, EngineInfo, KernelInfo, LogoutInfo, NotUsed, SystemInfo,
};
use container_client::Client;

use crate::{failure::Failure, output, size::size};

/// Show what machines run on: accelerator, kernel and engine, and why others are not used.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container system info
  container system info --format json")]
pub(crate) struct Info {
    /// Output format.
    #[arg(long, default_value = "table", value_name = "FORMAT", value_parser = ["table", "json"])]
    format: String,
}

impl Info {
    pub(crate) async fn run(self, build: &str) -> Result<(), Failure> {
        let info = Client::connect(build).await?.system().await?;
        match &self.format[..] {
            "json" => output::json(&info),
            _ => output::print(&summary(&info)),
        }
    }
}

fn summary(info: &SystemInfo) -> String {
    let SystemInfo {
        accelerator,
        directories,
        engine,
        host,
        kernel,
        logout,
        virtualization,
    } = info;
    let mut lines = Lines::default();
    lines.add("container", env!("CARGO_PKG_VERSION"));
    let memory = size(host.memory);
    lines.add(
        "host",
        &format!(
            "Linux {} on {}, {} processors, {memory}",
            host.kernel, host.architecture, host.processors
        ),
    );
    let engine = match engine {
        EngineInfo::Usable { program, version } => format!("{version} ({})", program.display()),
        EngineInfo::Unusable { problem } => format!("none: {problem}"),
    };
    lines.add("engine", &engine);
    let used = match &accelerator.choice {
        AcceleratorChoice::Used(used) => used.clone(),
        AcceleratorChoice::Problem(problem) => format!("none: {problem}"),
    };
    lines.add("accelerator", &used);
    lines.not_used(&accelerator.not_used);
    match kernel {
        KernelInfo::Usable {
            name,
            release,
            source,
            not_used,
            ..
        } => {
            lines.add("kernel", &format!("{name}: Linux {release}, from {source}"));
            lines.not_used(not_used);
        }
        KernelInfo::Unusable { problem, .. } => lines.add("kernel", &format!("none: {problem}")),
    }
    let nested = match virtualization {
        Ability::Available => "yes, with `virtualization=true`".to_owned(),
        Ability::Unavailable { reason } => format!("no: {reason}"),
    };
    lines.add("machines inside", &nested);
    match logout {
        Some(LogoutInfo::Continue(reason)) => {
            lines.add("at logout", &format!("machines continue: {reason}"));
        }
        Some(LogoutInfo::Stop(reason)) => {
            lines.add("at logout", &format!("machines are stopped: {reason}"));
        }
        None => {}
    }
    lines.add("data", &directories.data.display().to_string());
    lines.add("configuration", &directories.config.display().to_string());
    lines.add("runtime", &directories.runtime.display().to_string());
    lines.text
}

#[derive(Default)]
struct Lines {
    text: String,
}

impl Lines {
    fn add(&mut self, name: &str, value: &str) {
        self.text.push_str(&format!("{name:<16}{value}\n"));
    }

    fn not_used(&mut self, all: &[NotUsed]) {
        for NotUsed { name, reason } in all {
            self.add("", &format!("not {name}: {reason}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use container_api::{AcceleratorInfo, DirectoryInfo, HostInfo};

    use super::*;

    #[test]
    fn info_as_text() {
        let not_used = |name: &str, reason: &str| NotUsed {
            name: name.to_owned(),
            reason: reason.to_owned(),
        };
        let info = SystemInfo {
            accelerator: AcceleratorInfo {
                not_used: vec![not_used(
                    "kvm",
                    "the processor has no hardware virtualization",
                )],
                choice: AcceleratorChoice::Used("tcg".to_owned()),
            },
            directories: DirectoryInfo {
                config: "/home/ann/.config/container".into(),
                data: "/home/ann/.local/share/container".into(),
                runtime: "/run/user/1000/container".into(),
            },
            engine: EngineInfo::Usable {
                program: "/usr/bin/engine".into(),
                version: "engine 10.0".to_owned(),
            },
            host: HostInfo {
                architecture: "x86_64".to_owned(),
                kernel: "6.1.0".to_owned(),
                memory: 16 << 30,
                processors: 8,
            },
            kernel: KernelInfo::Usable {
                image: "/usr/lib/container/kernels/debian/vmlinux".into(),
                name: "debian".to_owned(),
                not_used: vec![not_used("container", "it was not built")],
                recommended: None,
                release: "6.1.0-40-cloud-amd64".to_owned(),
                source: "linux-image-6.1.0-40-cloud-amd64=6.1.153-1".to_owned(),
            },
            logout: Some(LogoutInfo::Continue("lingering is enabled".to_owned())),
            virtualization: Ability::Available,
        };
        insta::assert_snapshot!("system-info", summary(&info));
    }
}
