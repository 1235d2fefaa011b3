//! Values of options and settings, parsed the same way wherever they occur.

use std::{
    borrow::Cow,
    convert::Infallible,
    ffi::{OsStr, OsString},
    num::{NonZeroU32, NonZeroUsize},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    str::FromStr,
};

use container_protocol::{GroupReference, UserReference};

use crate::failure::Failure;

/// Error of parsing the value of an option: the reason why it is invalid. clap adds the value and
/// the option's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct InvalidValue(Cow<'static, str>);

impl InvalidValue {
    /// Returns an error with this reason.
    pub(crate) fn new(reason: impl Into<Cow<'static, str>>) -> InvalidValue {
        InvalidValue(reason.into())
    }
}

/// Name of an image: a reference, a digest, or the beginning of a digest. The service resolves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageName(pub String);

impl FromStr for ImageName {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<ImageName, Infallible> {
        Ok(ImageName(text.to_owned()))
    }
}

impl ImageName {
    /// Returns the text of each name.
    pub(crate) fn into_strings(names: Vec<ImageName>) -> Vec<String> {
        names.into_iter().map(|ImageName(text)| text).collect()
    }
}

/// Parses a number of virtual CPUs.
pub(crate) fn cpus(text: &str) -> Result<NonZeroU32, InvalidValue> {
    match text.trim().parse::<u32>() {
        Ok(count) => {
            NonZeroU32::new(count).ok_or(InvalidValue::new("a machine needs at least 1 CPU"))
        }
        Err(_) => Err(InvalidValue::new(format!(
            "{text:?} is not a number of CPUs"
        ))),
    }
}

/// Parses a number of concurrent downloads.
pub(crate) fn downloads(text: &str) -> Result<NonZeroUsize, InvalidValue> {
    match text.parse::<usize>() {
        Ok(count) => {
            NonZeroUsize::new(count).ok_or(InvalidValue::new("at least 1 download is needed"))
        }
        Err(_) => Err(InvalidValue::new(format!(
            "{text:?} is not a number of downloads"
        ))),
    }
}

/// Returns the absolute path of a kernel: the service has another working directory. The path of a
/// missing file without a directory is probably the name of a kernel.
pub(crate) fn kernel_path(path: &Path) -> Result<PathBuf, Failure> {
    let has_directory = path.components().count() > 1 || path.is_absolute();
    if !has_directory && !path.exists() {
        return Err(Failure::new(format!(
            "kernel file {path:?} not found (give the path of a kernel; \
             to choose one by name for all machines: container system kernel set NAME)"
        )));
    }
    let action = format!("find the kernel {}", path.display());
    std::path::absolute(path).map_err(Failure::cannot(action))
}

/// Parses a directory in a machine.
pub(crate) fn directory(text: OsString) -> Result<PathBuf, InvalidValue> {
    if text.is_empty() {
        return Err(InvalidValue::new("the directory is empty"));
    }
    Ok(text.into())
}

/// Parses a user of a machine and optionally a group: `NAME` or `UID`, then `:GROUP` or `:GID`.
pub(crate) fn user(text: &str) -> Result<(UserReference, Option<GroupReference>), InvalidValue> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    if user.is_empty() || group.is_some_and(str::is_empty) {
        let part = if user.is_empty() { "user" } else { "group" };
        return Err(InvalidValue::new(format!(
            "the {part} is empty (write USER or USER:GROUP, each a name or an id)"
        )));
    }
    // setresuid(2) and setresgid(2) have another meaning for it.
    if [Some(user), group]
        .map(|text| text?.parse().ok())
        .contains(&Some(u32::MAX))
    {
        return Err(InvalidValue::new("4294967295 is not an id"));
    }
    let user = match user.parse() {
        Ok(uid) => UserReference::Id(uid),
        Err(_) => UserReference::Name(user.to_owned()),
    };
    let group = group.map(|group| match group.parse() {
        Ok(gid) => GroupReference::Id(gid),
        Err(_) => GroupReference::Name(group.to_owned()),
    });
    Ok((user, group))
}

/// Environment variable for a command: `KEY=VALUE`, or `KEY` to copy the host's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Variable {
    /// Name of the variable.
    pub name: OsString,
    /// Value; absent to copy the host's.
    pub value: Option<OsString>,
}

/// Parses a variable. Linux allows nearly any character in a name; white space is refused because
/// it is always a mistake.
pub(crate) fn variable(text: OsString) -> Result<Variable, InvalidValue> {
    variable_from(text.as_bytes())
}

fn variable_from(text: &[u8]) -> Result<Variable, InvalidValue> {
    let (name, value) = match text.iter().position(|byte| *byte == b'=') {
        Some(end) => (&text[..end], Some(&text[end + 1..])),
        None => (text, None),
    };
    if name.is_empty() {
        return Err(InvalidValue::new(
            "the variable has no name (write KEY=VALUE, or KEY to copy the host's value)",
        ));
    }
    let shown = String::from_utf8_lossy(name);
    if shown.contains(|letter: char| letter.is_whitespace() || letter.is_control()) {
        return Err(InvalidValue::new(format!(
            "invalid variable name {shown:?}: it contains white space"
        )));
    }
    if text.contains(&0) {
        return Err(InvalidValue::new(format!(
            "the value of {shown} contains a NUL character"
        )));
    }
    Ok(Variable {
        name: OsStr::from_bytes(name).to_owned(),
        value: value.map(|value| OsStr::from_bytes(value).to_owned()),
    })
}

/// Error of parsing an `--env-file`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {cause}")]
pub(crate) struct InvalidVariableLine {
    /// Number of the line, from 1.
    pub line: usize,
    pub cause: InvalidValue,
}

/// Parses an `--env-file`: one variable on each line, optionally after `export`. Blank lines and
/// lines that begin with `#` are ignored.
pub(crate) fn variables(text: &[u8]) -> Result<Vec<Variable>, InvalidVariableLine> {
    let mut variables = Vec::new();
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        // `export` counts only if white space follows: `exported=4` and `export=3` are variables.
        let exported = line.strip_prefix(b"export").map(<[u8]>::trim_ascii_start);
        let text = match exported {
            Some(text) if text.len() < line.len() - "export".len() => text,
            _ => line,
        };
        variables.push(variable_from(text).map_err(|cause| InvalidVariableLine {
            line: index + 1,
            cause,
        })?);
    }
    Ok(variables)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_kernel_is_not_its_path() {
        let error = kernel_path(Path::new("debian")).unwrap_err().to_string();
        assert!(
            error.contains("container system kernel set NAME"),
            "{error}"
        );
        let missing = kernel_path(Path::new("/none/vmlinux"));
        assert_eq!(missing.unwrap(), Path::new("/none/vmlinux"));
        assert!(kernel_path(Path::new("./debian")).unwrap().is_absolute());
    }

    #[test]
    fn invalid_numbers_are_refused_with_a_reason() {
        let cpus_error = |text| cpus(text).unwrap_err().to_string();
        let downloads_error = |text| downloads(text).unwrap_err().to_string();
        assert_eq!(cpus("3").unwrap().get(), 3);
        assert_eq!(cpus_error("0"), "a machine needs at least 1 CPU");
        for word in ["", "two", "-1", "1.5", "99999999999"] {
            assert!(cpus_error(word).contains("number of CPUs"), "{word}");
        }
        assert!(downloads_error("0").contains("1 download"));
        assert!(downloads_error("x").contains("number"));
    }

    #[test]
    fn users_are_names_or_numbers() {
        let parse = |text| user(text).unwrap();
        assert_eq!(parse("ann"), (UserReference::Name("ann".into()), None));
        assert_eq!(parse("7"), (UserReference::Id(7), None));
        let group = |text: &str| GroupReference::Name(text.to_owned());
        assert_eq!(
            parse("7:8"),
            (UserReference::Id(7), Some(GroupReference::Id(8)))
        );
        assert_eq!(
            parse("ann:adm"),
            (UserReference::Name("ann".into()), Some(group("adm")))
        );
        for text in ["7:", "", ":5", ":", "4294967295", "7:04294967295"] {
            assert!(user(text).is_err(), "{text}");
        }
    }

    fn set(name: &str, value: &str) -> Variable {
        Variable {
            name: name.into(),
            value: Some(value.into()),
        }
    }

    #[test]
    fn variables_have_a_value_or_copy_the_hosts() {
        let variable = |text: &str| super::variable(text.into());
        assert_eq!(variable("A=b=c").unwrap(), set("A", "b=c"));
        assert_eq!(variable("A=").unwrap(), set("A", ""));
        assert_eq!(variable("a.b-c=d e").unwrap(), set("a.b-c", "d e"));
        assert_eq!(variable("HOME").unwrap().value, None);
        for text in ["=x", "", "1A B=x", "B =2", " B=2", "A\tB", "A=\0"] {
            assert!(variable(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn errors_in_a_file_of_variables_have_a_line_number() {
        let text =
            "# a comment\n\nA=1\r\n  export B=two words\nexport=3\nexported=4\nexport C = x\n";
        let good = text.lines().take(6).collect::<Vec<_>>().join("\n");
        assert_eq!(
            variables(good.as_bytes()).unwrap(),
            [
                set("A", "1"),
                set("B", "two words"),
                set("export", "3"),
                set("exported", "4")
            ]
        );
        let InvalidVariableLine { line, cause } = variables(text.as_bytes()).unwrap_err();
        assert_eq!(line, 7);
        assert!(cause.to_string().contains("\"C \""), "{cause}");
    }
}
