//! `container system report`

use std::path::PathBuf;

use clap::{Args, ValueHint};
use container_client::report::{Report as CollectedReport, ReportFile};

use crate::{
    failure::Failure,
    output,
    size::size,
    table::{Cell, table},
};

/// Collect what a bug report needs in one file.
///
/// The file is a tar archive with: the checks of `container system doctor`, versions, the host
/// (kernel, distribution, processor, memory), config.toml, all details of machines, and the end of
/// the logs of the service, of machines' kernels and of the processes that run them.
///
/// Not in it are: credentials, keys, values of environment variables, and the output of programs in
/// machines, except for what they print on the console. What looks like a secret in the rest is
/// replaced by `[removed]`. Nothing is sent anywhere: read the file before you attach it to a
/// report, because it names your user, machines, images and directories.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container system report
  container system report -o /tmp/report.tar.gz")]
pub(crate) struct Report {
    /// File to write, which must not exist.
    #[arg(short, long, value_name = "FILE", default_value = "container-report.tar.gz", value_hint = ValueHint::FilePath)]
    output: PathBuf,
}

impl Report {
    /// Writes the file, and prints what is in it.
    pub(crate) async fn run(self, build: &str) -> Result<(), Failure> {
        let report = CollectedReport::collect(env!("CARGO_PKG_VERSION"), build).await;
        report.write(&self.output)?;
        let is_coloured = output::is_coloured(&std::io::stdout());
        output::print(&files_table(report.files(), is_coloured))?;
        let file = self.output.display();
        output::note(&format!(
            "Written to {file}. Read it before you send it to anybody: tar -xzOf {file} | less"
        ));
        Ok(())
    }
}

fn files_table(files: &[ReportFile], is_coloured: bool) -> String {
    let row = |file: &ReportFile| -> [Cell; 2] {
        [
            file.name.as_str().into(),
            size(file.text.len() as u64).into(),
        ]
    };
    table(["FILE", "SIZE"], files.iter().map(row), is_coloured)
}
