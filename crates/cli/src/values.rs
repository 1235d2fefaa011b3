//! Values of options and settings: what is typed, read once, with the same words everywhere.

use std::{
    convert::Infallible,
    num::{NonZeroU32, NonZeroUsize},
    str::FromStr,
};

use container_protocol::UserReference;

/// What names an image: a reference, or a digest or the beginning of one. The service knows which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageName(pub String);

impl FromStr for ImageName {
    type Err = Infallible;

    fn from_str(word: &str) -> Result<ImageName, Infallible> {
        Ok(ImageName(word.to_owned()))
    }
}

/// The words of several.
pub fn words(names: Vec<ImageName>) -> Vec<String> {
    names.into_iter().map(|ImageName(word)| word).collect()
}

/// A number of virtual CPUs.
pub fn cpus(word: &str) -> Result<NonZeroU32, String> {
    match word.trim().parse::<u32>() {
        Ok(count) => NonZeroU32::new(count).ok_or("a machine has 1 CPU at least".to_owned()),
        Err(_) => Err(format!("{word:?} is not a number of CPUs")),
    }
}

/// A number of downloads at once.
pub fn downloads(word: &str) -> Result<NonZeroUsize, String> {
    match word.parse::<usize>() {
        Ok(count) => NonZeroUsize::new(count).ok_or("1 download at least is needed".to_owned()),
        Err(_) => Err(format!("{word:?} is not a number of downloads")),
    }
}

/// A directory in a machine.
pub fn directory(word: &str) -> Result<String, String> {
    match word {
        "" => Err("it names no directory".to_owned()),
        _ => Ok(word.to_owned()),
    }
}

/// A user of a machine, `NAME` or `UID`, and perhaps a group, `:GID`.
pub fn user(word: &str) -> Result<(UserReference, Option<u32>), String> {
    let (user, group) = match word.split_once(':') {
        Some((user, group)) => {
            let invalid = |_| format!("{group:?} is not a group id");
            (user, Some(group.parse().map_err(invalid)?))
        }
        None => (word, None),
    };
    if user.is_empty() {
        return Err("it names no user: give NAME, or UID[:GID]".to_owned());
    }
    let user = match user.parse() {
        Ok(uid) => UserReference::Id(uid),
        Err(_) => UserReference::Name(user.to_owned()),
    };
    Ok((user, group))
}

/// A variable of a command's environment: `KEY=VALUE`, or `KEY` for the host's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Its value; none for the host's.
    pub value: Option<String>,
}

/// Reads a variable. Linux has names with nearly anything in them; spaces are a mistake.
pub fn variable(word: &str) -> Result<Variable, String> {
    let (name, value) = match word.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (word, None),
    };
    if name.is_empty() {
        return Err("it names no variable: give KEY=VALUE, or KEY for the host's value".to_owned());
    }
    if name.contains(|letter: char| letter.is_whitespace() || letter.is_control()) {
        return Err(format!(
            "{name:?} cannot name a variable: there is a space in it"
        ));
    }
    if word.contains('\0') {
        return Err(format!("the value of {name} has a NUL character in it"));
    }
    Ok(Variable {
        name: name.to_owned(),
        value,
    })
}

/// Reads an `--env-file`: a variable a line, perhaps behind `export`; blank lines and those that
/// begin with `#` are passed over. A mistake is told with its line, counted from 1.
pub fn variables(text: &str) -> Result<Vec<Variable>, (usize, String)> {
    let mut variables = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let exported = line.strip_prefix("export").map(str::trim_start);
        let word = match exported {
            Some(word) if word.len() < line.len() - "export".len() => word,
            _ => line,
        };
        variables.push(variable(word).map_err(|reason| (index + 1, reason))?);
    }
    Ok(variables)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_refused_in_plain_words() {
        assert_eq!(cpus("3").unwrap().get(), 3);
        assert_eq!(cpus("0").unwrap_err(), "a machine has 1 CPU at least");
        for word in ["", "two", "-1", "1.5", "99999999999"] {
            assert!(cpus(word).unwrap_err().contains("number of CPUs"), "{word}");
        }
        assert!(downloads("0").unwrap_err().contains("1 download"));
        assert!(downloads("x").unwrap_err().contains("number"));
    }

    #[test]
    fn users_are_names_or_numbers() {
        let of = |word| user(word).unwrap();
        assert_eq!(of("ann"), (UserReference::Name("ann".into()), None));
        assert_eq!(of("7"), (UserReference::Id(7), None));
        assert_eq!(of("7:8"), (UserReference::Id(7), Some(8)));
        for word in ["7:x", "7:", "", ":5"] {
            assert!(user(word).is_err(), "{word}");
        }
    }

    fn set(name: &str, value: &str) -> Variable {
        Variable {
            name: name.to_owned(),
            value: Some(value.to_owned()),
        }
    }

    #[test]
    fn variables_are_set_or_handed_on() {
        assert_eq!(variable("A=b=c").unwrap(), set("A", "b=c"));
        assert_eq!(variable("A=").unwrap(), set("A", ""));
        assert_eq!(variable("a.b-c=d e").unwrap(), set("a.b-c", "d e"));
        assert_eq!(variable("HOME").unwrap().value, None);
        for word in ["=x", "", "1A B=x", "B =2", " B=2", "A\tB", "A=\0"] {
            assert!(variable(word).is_err(), "{word:?}");
        }
    }

    #[test]
    fn a_file_of_variables_is_read_and_a_mistake_has_its_line() {
        let text =
            "# a comment\n\nA=1\r\n  export B=two words\nexport=3\nexported=4\nexport C = x\n";
        let good = text.lines().take(6).collect::<Vec<_>>().join("\n");
        assert_eq!(
            variables(&good).unwrap(),
            [
                set("A", "1"),
                set("B", "two words"),
                set("export", "3"),
                set("exported", "4")
            ]
        );
        let (line, reason) = variables(text).unwrap_err();
        assert_eq!(line, 7);
        assert!(reason.contains("\"C \""), "{reason}");
    }
}
