//! The manual pages, made from the same definitions as the help.

use std::path::PathBuf;

use clap::{Args, Command};

use crate::failure::Failure;

/// Write the manual pages of all commands into a directory.
#[derive(Debug, Args)]
pub struct ManualPages {
    /// The directory.
    directory: PathBuf,
}

impl ManualPages {
    /// Writes a page for each command: `container-machine-create.1`.
    pub fn carry_out(self, command: Command) -> Result<(), Failure> {
        let written = clap_mangen::generate_to(command, &self.directory);
        written.map_err(|error| {
            let directory = self.directory.display();
            Failure::new(format!("writing manual pages to {directory}: {error}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::Cli;

    #[test]
    fn every_command_has_a_page_with_its_examples() {
        let directory = tempfile::tempdir().unwrap();
        let pages = ManualPages {
            directory: directory.path().to_owned(),
        };
        pages.carry_out(Cli::command()).unwrap();
        let command = Cli::command();
        let machine = command.find_subcommand("machine").unwrap();
        for verb in machine.get_subcommands() {
            let page = format!("container-machine-{}.1", verb.get_name());
            let text = std::fs::read_to_string(directory.path().join(&page)).unwrap();
            assert!(text.contains("container machine"), "{page}: {text}");
        }
        for page in [
            "container.1",
            "container-machine.1",
            "container-completion.1",
        ] {
            assert!(directory.path().join(page).exists(), "{page}");
        }
        assert!(!directory.path().join("container-manual-pages.1").exists());
    }
}
