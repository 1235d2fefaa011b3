//! `container system doctor`

use anstyle::{AnsiColor, Style};
use clap::Args;
use container_api::{Check, CheckStatus, Diagnosis};
use container_client::doctor::diagnose;

use crate::{
    failure::Failure,
    output,
    table::{Cell, table},
};

/// Check everything that machines need on this host.
///
/// Each line is `ok`, `warning` (machines work, but less well than they could) or `problem`, with
/// what to do about it below. No service is needed, so this also works when nothing else does. The
/// exit code is 1 if there is a problem.
///
/// With --fix, files that a crash has left behind are removed: unfinished downloads and machines,
/// and directories for sockets that no machine uses. Everything else has to be changed by hand.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container system doctor
  container system doctor --fix
  container system doctor --format json")]
pub(crate) struct Doctor {
    /// Remove files that a crash has left behind.
    #[arg(long)]
    fix: bool,

    /// Output format.
    #[arg(long, default_value = "table", value_name = "FORMAT", value_parser = ["table", "json"])]
    format: String,
}

impl Doctor {
    /// Prints all checks. Returns the exit code.
    pub(crate) async fn run(self) -> Result<u8, Failure> {
        let diagnosis = diagnose(self.fix).await?;
        match &self.format[..] {
            "json" => output::json(&diagnosis)?,
            _ => {
                let is_coloured = output::is_coloured(&std::io::stdout());
                output::print(&checks_table(&diagnosis, is_coloured))?;
            }
        }
        Ok(u8::from(diagnosis.has_problem()))
    }
}

fn checks_table(diagnosis: &Diagnosis, is_coloured: bool) -> String {
    let rows = diagnosis.checks.iter().flat_map(|check| {
        let (word, style) = status(check);
        let found = [
            Cell::styled(word, style),
            check.name.as_str().into(),
            check.message.as_str().into(),
        ];
        let fix = check.fix.as_ref().map(|fix| {
            let fix = format!("fix: {fix}");
            ["".into(), "".into(), fix.into()]
        });
        [Some(found), fix].into_iter().flatten()
    });
    table(["STATUS", "CHECK", "RESULT"], rows, is_coloured)
}

fn status(check: &Check) -> (&'static str, Style) {
    match check.status {
        CheckStatus::Ok => ("ok", AnsiColor::Green.on_default()),
        CheckStatus::Warning => ("warning", AnsiColor::Yellow.on_default()),
        CheckStatus::Problem => ("problem", AnsiColor::Red.on_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_as_table() {
        let diagnosis = Diagnosis {
            checks: vec![
                Check::ok("engine", "QEMU 10"),
                Check::warning("accelerator", "slow").with_fix("sudo usermod -aG kvm ann"),
                Check::problem("machine dev", "it is broken"),
            ],
        };
        let table = checks_table(&diagnosis, false);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(
            lines,
            [
                "STATUS   CHECK        RESULT",
                "ok       engine       QEMU 10",
                "warning  accelerator  slow",
                "                      fix: sudo usermod -aG kvm ann",
                "problem  machine dev  it is broken",
            ]
        );
    }
}
