//! `container manual-pages` (hidden): manual pages from the same definitions as the help.

use std::{fs, io, path::PathBuf};

use clap::{Args, Command};

use crate::failure::Failure;

/// Write the manual pages of all commands to a directory.
#[derive(Debug, Args)]
pub(crate) struct ManualPages {
    /// Directory for the pages; created if it is missing.
    directory: PathBuf,
}

impl ManualPages {
    /// Writes one page for each command: `container-machine-create.1`.
    pub(crate) fn run(self, command: Command) -> Result<(), Failure> {
        let directory = self.directory.display();
        let action = format!("write manual pages to {directory}");
        self.write(command).map_err(Failure::cannot(action))
    }

    fn write(&self, command: Command) -> io::Result<()> {
        fs::create_dir_all(&self.directory)?;
        clap_mangen::generate_to(command, &self.directory)?;
        for entry in fs::read_dir(&self.directory)? {
            let page = entry?.path();
            if page.extension().is_some_and(|section| section == "1") {
                fs::write(&page, with_examples(&fs::read_to_string(&page)?))?;
            }
        }
        Ok(())
    }
}

/// Returns the page with its examples as a section EXAMPLES (man-pages(7)), without line filling.
///
/// clap_mangen writes the text after the options as a section EXTRA.
fn with_examples(page: &str) -> String {
    let Some((before, rest)) = page.split_once(".SH EXTRA\n") else {
        return page.to_owned();
    };
    let (examples, after) = match rest.find(".SH ") {
        Some(position) => rest.split_at(position),
        None => (rest, ""),
    };
    let examples = examples.trim_start_matches("Examples:\n").trim_end();
    format!("{before}.SH EXAMPLES\n.nf\n{examples}\n.fi\n{after}")
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
        pages.run(Cli::command()).unwrap();
        let command = Cli::command();
        let machine = command.find_subcommand("machine").unwrap();
        for verb in machine.get_subcommands().filter(|it| !it.is_hide_set()) {
            let page = format!("container-machine-{}.1", verb.get_name());
            let text = std::fs::read_to_string(directory.path().join(&page)).unwrap();
            let examples = text.split_once(".SH EXAMPLES\n.nf\n").unwrap().1;
            assert!(examples.contains("container machine"), "{page}: {text}");
            assert!(examples.contains("\n.fi\n"), "{page}: {text}");
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
