//! Mistakes in the command line, told in the words of every other error.

use std::{io, process::ExitCode};

use clap::{
    Error,
    error::{ContextKind, ContextValue, ErrorKind},
};

use crate::{failure, output};

/// The exit code of a command line that is wrong.
const USAGE: u8 = 2;

/// Prints the help or version that was asked for, or what is wrong with the command line.
pub fn told(mut error: Error) -> ExitCode {
    if !error.use_stderr() {
        // With standard output gone there is nobody to tell.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    without_false_tip(&mut error);
    output::note(text(&error, output::is_coloured(&io::stderr())).trim_end());
    ExitCode::from(USAGE)
}

/// "To pass '--x' as a value, use '-- --x'" helps only where a command of the machine's may stand.
fn without_false_tip(error: &mut Error) {
    if error.kind() == ErrorKind::UnknownArgument && !takes_a_command(error) {
        error.remove(ContextKind::Suggested);
    }
}

fn text(error: &Error, is_coloured: bool) -> String {
    let rendered = error.render();
    let text = match is_coloured {
        true => rendered.ansi().to_string(),
        false => rendered.to_string(),
    };
    match text.split_once("error:") {
        // What clap puts around the word goes with it.
        Some((_, rest)) => {
            let rest = rest.strip_prefix("\u{1b}[0m").unwrap_or(rest);
            format!("{}{rest}", failure::prefix())
        }
        None => text,
    }
}

/// Whether the mistake was made where a command of the machine's may stand.
fn takes_a_command(error: &Error) -> bool {
    match error.get(ContextKind::Usage) {
        Some(ContextValue::StyledStr(usage)) => usage.to_string().contains("[COMMAND]"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::Cli;

    fn told_of(arguments: &[&str]) -> String {
        let arguments = [&["container", "machine"], arguments].concat();
        let mut error = Cli::try_parse_from(arguments).unwrap_err();
        without_false_tip(&mut error);
        text(&error, false)
    }

    #[test]
    fn mistakes_are_told_in_plain_words() {
        for (arguments, words) in [
            (
                &["create", "x", "--cpus", "0"][..],
                "Error: invalid value '0' for '--cpus <N>': a machine has 1 CPU at least",
            ),
            (
                &["create", "x", "--max-concurrent-downloads", "0"],
                "1 download at least",
            ),
            (&["create", "x", "--memory", "1"], "1G at least"),
            (&["create", "x", "--disk-size", "1"], "1G at least"),
            (&["create", "x", "--disk-size", "9T"], "8T at most"),
            (&["create", "x", "--home-mount", "rx"], "rw, ro or none"),
            (&["create", "x", "--scheme", "ftp"], "http, https, auto"),
            (&["run", "-u", ""], "names no user"),
            (&["run", "-w", ""], "names no directory"),
            (&["run", "-e", "1A B=x"], "\"1A B\" cannot name a variable"),
            (
                &["ls", "--filter", "stat=x"],
                "id, name, image, status and default",
            ),
            (&["ls", "--format", "xml"], "table, json and templates"),
            (
                &["inspect", "--format", "{{ x }}"],
                "there is no field \"x\"",
            ),
            (&["delete"], "Error: the following required arguments"),
        ] {
            let told = told_of(arguments);
            assert!(told.contains(words), "{arguments:?}: {told}");
        }
    }

    #[test]
    fn only_a_command_may_have_unknown_options() {
        let told = told_of(&["create", "x", "--foo"]);
        assert!(
            told.starts_with("Error: unexpected argument '--foo'"),
            "{told}"
        );
        assert!(!told.contains("-- --foo"), "{told}");
        let told = told_of(&["create", "x", "--memroy", "2G"]);
        assert!(told.contains("'--memory'"), "{told}");
        let told = told_of(&["run", "--foo"]);
        assert!(told.contains("-- --foo"), "{told}");
    }

    #[test]
    fn the_first_word_is_coloured_like_any_error() {
        let error = Cli::try_parse_from(["container", "machine", "delete"]).unwrap_err();
        let text = text(&error, true);
        assert!(text.starts_with(&failure::prefix()), "{text:?}");
        assert!(text.contains("\x1b["), "{text:?}");
    }
}
