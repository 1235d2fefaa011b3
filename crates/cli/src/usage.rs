//! Errors of the command line, printed in the form of every other error.

use std::{ffi::OsString, io, process::ExitCode};

use clap::{
    Error,
    error::{ContextKind, ErrorKind},
};

use crate::output;

/// Exit code for an invalid command line.
const USAGE: u8 = 2;

/// The same for `run` and `exec`, where 2 may be the command's own code.
const USAGE_OF_COMMAND: u8 = 125;

/// Prints the requested help or version, or the error in the `words` of the command line. Returns
/// the exit code.
pub(crate) fn report(mut error: Error, words: impl IntoIterator<Item = OsString>) -> ExitCode {
    if !error.use_stderr() {
        // Nothing to do if standard output is closed.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let takes_a_command = takes_a_command(words);
    remove_false_tip(&mut error, takes_a_command);
    output::note(text(&error, output::is_coloured(&io::stderr())).trim_end());
    ExitCode::from(if takes_a_command {
        USAGE_OF_COMMAND
    } else {
        USAGE
    })
}

/// Removes clap's tip "to pass '--x' as a value, use '-- --x'" unless the verb takes a command to
/// run in the machine: elsewhere it only leads to the next error.
fn remove_false_tip(error: &mut Error, takes_a_command: bool) {
    if error.kind() == ErrorKind::UnknownArgument && !takes_a_command {
        error.remove(ContextKind::Suggested);
    }
}

/// Returns the text of the error, with "Error:" in place of clap's "error:".
fn text(error: &Error, is_coloured: bool) -> String {
    let rendered = error.render();
    let text = if is_coloured {
        rendered.ansi().to_string()
    } else {
        rendered.to_string()
    };
    match text.split_once("error:") {
        // clap ends its style for the word here.
        Some((_, rest)) => {
            let rest = rest.strip_prefix("\u{1b}[0m").unwrap_or(rest);
            format!("{}{rest}", output::error_prefix())
        }
        None => text,
    }
}

/// Returns whether the verb takes a command to run in the machine. Before the verb there are only
/// options without values.
fn takes_a_command(words: impl IntoIterator<Item = OsString>) -> bool {
    let words = words.into_iter().skip(1);
    let mut words = words.filter(|word| !word.as_encoded_bytes().starts_with(b"-"));
    let is_machine = words
        .next()
        .is_some_and(|word| word == "machine" || word == "m");
    is_machine
        && words
            .next()
            .is_some_and(|verb| verb == "run" || verb == "exec")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::Cli;

    fn reported(arguments: &[&str]) -> String {
        let arguments = [&["container", "machine"], arguments].concat();
        let mut error = Cli::try_parse_from(&arguments).unwrap_err();
        remove_false_tip(
            &mut error,
            takes_a_command(arguments.into_iter().map(OsString::from)),
        );
        text(&error, false)
    }

    #[test]
    fn invalid_values_are_refused_with_a_reason() {
        for (arguments, words) in [
            (
                &["create", "x", "--cpus", "0"][..],
                "Error: invalid value '0' for '--cpus <N>': a machine needs at least 1 CPU",
            ),
            (
                &["create", "x", "--max-concurrent-downloads", "0"],
                "at least 1 download",
            ),
            (&["create", "x", "--memory", "1"], "minimum: 1G"),
            (&["create", "x", "--disk-size", "1"], "minimum: 1G"),
            (&["create", "x", "--disk-size", "9T"], "maximum: 8T"),
            (&["create", "x", "--home-mount", "rx"], "rw, ro or none"),
            (&["create", "x", "--scheme", "ftp"], "http, https, auto"),
            (&["run", "-u", ""], "the user is empty"),
            (&["run", "-w", ""], "the directory is empty"),
            (&["run", "-e", "1A B=x"], "invalid variable name \"1A B\""),
            (
                &["ls", "--filter", "stat=x"],
                "id, name, image, status, default",
            ),
            (&["ls", "--format", "xml"], "table, json, a template"),
            (&["inspect", "--format", "{{ x }}"], "field \"x\" not found"),
            (&["delete"], "Error: the following required arguments"),
        ] {
            let text = reported(arguments);
            assert!(text.contains(words), "{arguments:?}: {text}");
        }
    }

    #[test]
    fn verbs_that_run_a_command_are_recognized() {
        for (line, expected) in [
            ("container machine run -u", true),
            ("container --debug m --debug exec -w", true),
            ("container machine", false),
            ("container machine create run", false),
            ("container image run", false),
        ] {
            let words = line.split(' ').map(OsString::from);
            assert_eq!(takes_a_command(words), expected, "{line}");
        }
    }

    #[test]
    fn unknown_options_are_only_explained_before_a_command() {
        let text = reported(&["create", "x", "--foo"]);
        assert!(
            text.starts_with("Error: unexpected argument '--foo'"),
            "{text}"
        );
        assert!(!text.contains("-- --foo"), "{text}");
        let text = reported(&["create", "x", "--memroy", "2G"]);
        assert!(text.contains("'--memory'"), "{text}");
        let text = reported(&["run", "--foo"]);
        assert!(text.contains("-- --foo"), "{text}");
    }

    #[test]
    fn usage_errors_have_the_prefix_of_every_error() {
        let error = Cli::try_parse_from(["container", "machine", "delete"]).unwrap_err();
        let text = text(&error, true);
        assert!(text.starts_with(&output::error_prefix()), "{text:?}");
        assert!(text.contains("\x1b["), "{text:?}");
    }
}
