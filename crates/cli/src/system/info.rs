//! `container system info`

use clap::Args;
use container_api::{NotUsed, SystemInfo};
use container_client::Client;

use crate::{failure::Failure, output, size::size};

/// Show what machines run on here, and why not on something else.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container system info
  container system info --format json")]
pub struct Info {
    /// How to print it: table or json.
    #[arg(long, default_value = "table", value_name = "FORMAT", value_parser = ["table", "json"])]
    format: String,
}

impl Info {
    pub async fn carry_out(self, build: &str) -> Result<(), Failure> {
        let info = Client::connect(build).await?.system().await?;
        match &self.format[..] {
            "json" => output::json(&info),
            _ => output::print(&told(&info)),
        }
    }
}

fn told(info: &SystemInfo) -> String {
    let SystemInfo {
        accelerator,
        directories,
        engine,
        host,
        kernel,
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
    match (&engine.problem, &engine.program, &engine.version) {
        (None, Some(program), Some(version)) => {
            lines.add("engine", &format!("{version} ({})", program.display()));
        }
        (problem, ..) => lines.add("engine", &lacking(problem.as_deref())),
    }
    match &accelerator.used {
        Some(used) => lines.add("accelerator", used),
        None => lines.add("accelerator", &lacking(accelerator.problem.as_deref())),
    }
    lines.not_used(&accelerator.not_used);
    match (&kernel.name, &kernel.release, &kernel.source) {
        (Some(name), Some(release), Some(source)) => {
            lines.add("kernel", &format!("{name}: Linux {release}, from {source}"));
        }
        _ => lines.add("kernel", &lacking(kernel.problem.as_deref())),
    }
    lines.not_used(&kernel.not_used);
    let nested = match (&virtualization.reason, virtualization.available) {
        (Some(reason), false) => format!("no: {reason}"),
        _ => "yes, with `virtualization=true`".to_owned(),
    };
    lines.add("machines inside", &nested);
    lines.add("data", &directories.data.display().to_string());
    lines.add("configuration", &directories.config.display().to_string());
    lines.add("runtime", &directories.runtime.display().to_string());
    lines.text
}

fn lacking(problem: Option<&str>) -> String {
    format!("none: {}", problem.unwrap_or("not known"))
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
    use container_api::{Ability, AcceleratorInfo, Directories, EngineInfo, HostInfo, KernelInfo};

    use super::*;

    #[test]
    fn what_is_told_stays_as_it_is() {
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
                problem: None,
                used: Some("tcg".to_owned()),
            },
            directories: Directories {
                config: "/home/ann/.config/container".into(),
                data: "/home/ann/.local/share/container".into(),
                runtime: "/run/user/1000/container".into(),
            },
            engine: EngineInfo {
                problem: None,
                program: Some("/usr/bin/engine".into()),
                version: Some("engine 10.0".to_owned()),
            },
            host: HostInfo {
                architecture: "x86_64".to_owned(),
                kernel: "6.1.0".to_owned(),
                memory: 16 << 30,
                processors: 8,
            },
            kernel: KernelInfo {
                image: Some("/usr/lib/container/kernels/debian/vmlinux".into()),
                name: Some("debian".to_owned()),
                not_used: vec![not_used("container", "it was not built")],
                problem: None,
                recommended: None,
                release: Some("6.1.0-40-cloud-amd64".to_owned()),
                source: Some("linux-image-6.1.0-40-cloud-amd64=6.1.153-1".to_owned()),
            },
            virtualization: Ability {
                available: true,
                reason: None,
            },
        };
        insta::assert_snapshot!("system-info", told(&info));
    }
}
