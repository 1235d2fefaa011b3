//! Snapshots of all help pages. The texts are in `lib.rs` and in the files of the verbs.
//!
//! `INSTA_UPDATE=always cargo test -p container-cli` updates the snapshots.

use clap::{Command, CommandFactory};

use crate::Cli;

/// Returns the command and all visible commands below it.
fn commands(command: &Command) -> Vec<Command> {
    let below = command.get_subcommands().filter(|it| !it.is_hide_set());
    let below = below.flat_map(commands);
    std::iter::once(command.clone()).chain(below).collect()
}

fn all() -> Vec<Command> {
    let mut command = Cli::command().disable_help_subcommand(true).term_width(80);
    command.build();
    commands(&command)
}

#[test]
fn help_pages() {
    for mut command in all() {
        let name = command.get_display_name().unwrap_or("container").to_owned();
        let page = command.render_long_help().to_string();
        insta::assert_snapshot!(name, page);
    }
}

#[test]
fn only_the_long_help_has_examples() {
    for mut command in all() {
        let name = command.get_display_name().unwrap_or("container").to_owned();
        let page = command.render_long_help().to_string();
        assert!(page.contains("Example"), "{name}: {page}");
        let short = command.render_help().to_string();
        assert!(!short.contains("Example"), "{name}: {short}");
        let examples = command.get_after_long_help().unwrap().to_string();
        let mut examples = examples.lines().filter(|line| line.starts_with("  "));
        assert!(
            examples.all(|line| line.len() <= 80),
            "{name}: an example is wider than 80 columns"
        );
    }
}
