//! Removes secrets from text.
//!
//! It removes too much rather than too little: what follows a word such as `password` and `=` or
//! `:` up to the end of the line, the user part of URLs, private keys, well-known forms of tokens,
//! the values of environment variables in JSON, and those of other variables with certain names.
//! It cannot know what a program has logged, so users are asked to read the result.

use serde_json::Value;

use crate::service_environment::is_own;

/// What replaces a secret.
const REMOVED: &str = "[removed]";

/// Words in the name of a value that is a secret.
const SECRET_NAMES: [&str; 14] = [
    "access_key",
    "access-key",
    "accesskey",
    "api_key",
    "api-key",
    "apikey",
    "authorization",
    "credential",
    "passphrase",
    "passwd",
    "password",
    "private_key",
    "secret",
    "token",
];

/// Words in the name of an environment variable whose value is a secret. `PWD` is also the name of
/// a harmless one.
const SECRET_VARIABLES: [&str; 7] = [
    "PASS",
    "PWD",
    "AUTH",
    "CREDENTIAL",
    "SECRET",
    "TOKEN",
    "KEY",
];

/// Prefix of this program's environment variables. Podman's with this prefix (podman(1)) name hosts
/// and users.
const PREFIX: &str = "CONTAINER_";

/// How the tokens of well-known services begin: GitHub, GitLab, Slack, AWS, npm, OpenAI and others,
/// JSON web tokens.
const TOKEN_STARTS: [&str; 15] = [
    "AKIA",
    "ASIA",
    "eyJ",
    "ghp_",
    "gho_",
    "ghr_",
    "ghs_",
    "ghu_",
    "dckr_pat_",
    "github_pat_",
    "glpat-",
    "npm_",
    "sk-",
    "sk_live_",
    "xox",
];

/// Limit of bytes between the word and the separator, which are the rest of the name.
const NAME_REST: usize = 64;

/// Length above which a word with such a start is a token.
const MIN_TOKEN: usize = 16;

/// Returns the text without secrets.
pub(super) fn redact(text: &str) -> String {
    match serde_json::from_str::<Value>(text) {
        Ok(mut value @ (Value::Object(_) | Value::Array(_))) => {
            redact_environments(&mut value);
            // Indented, so that a line has one value.
            let text = serde_json::to_string_pretty(&value).unwrap_or_default();
            redact_lines(&text)
        }
        _ => redact_lines(text),
    }
}

/// Removes the values of all `NAME=value` in arrays whose name says that they are an environment.
fn redact_environments(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(redact_environments),
        Value::Object(fields) => {
            for (name, field) in fields {
                match field {
                    Value::Array(items) if name.to_ascii_lowercase().contains("env") => {
                        items.iter_mut().for_each(redact_variable);
                    }
                    Value::Object(variables) if name.to_ascii_lowercase().contains("env") => {
                        variables.values_mut().for_each(redact_value);
                    }
                    field => redact_environments(field),
                }
            }
        }
        _ => {}
    }
}

/// Removes the value of a variable in an object.
fn redact_value(value: &mut Value) {
    match value {
        Value::String(text) => REMOVED.clone_into(text),
        value => redact_environments(value),
    }
}

fn redact_variable(variable: &mut Value) {
    if let Value::String(text) = variable {
        let name = text.split('=').next().unwrap_or_default();
        *text = format!("{name}={REMOVED}");
    }
}

fn redact_lines(text: &str) -> String {
    let mut redacted = String::with_capacity(text.len());
    let mut is_in_key = false;
    for line in text.split_inclusive('\n') {
        let begins_key = line.contains("-----BEGIN") && line.contains("PRIVATE KEY");
        let end = line.strip_suffix('\n').map_or("", |_| "\n");
        if begins_key {
            redacted.push_str(REMOVED);
            redacted.push_str(end);
        } else if !is_in_key {
            redacted.push_str(&redact_line(line.trim_end_matches('\n')));
            redacted.push_str(end);
        }
        is_in_key = (is_in_key || begins_key) && !line.contains("-----END");
    }
    redacted
}

fn redact_line(line: &str) -> String {
    let starts = [secret_start(line), secret_variable_start(line)];
    let shown = match starts.into_iter().flatten().min() {
        Some(start) => format!("{} {REMOVED}", &line[..start]),
        None => line.to_owned(),
    };
    let shown = redact_users(&shown);
    let words = shown.split_inclusive([' ', '\t', '"', '\'', ',', ';', ':', '=']);
    let shown: String = words.map(redact_word).collect();
    let words = shown.split_inclusive(|letter: char| !is_in_token(letter));
    words.map(redact_word).collect()
}

/// Returns the position after the `=` or `:` that follows the name of an environment variable with
/// a secret.
fn secret_variable_start(line: &str) -> Option<usize> {
    let is_in_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let separators = line.match_indices(['=', ':']).map(|(position, _)| position);
    let mut secrets = separators.filter(|position| {
        let before = line[..*position].trim_end_matches(['"', '\'']);
        let start = before.rfind(|letter| !is_in_name(letter));
        // What is not in a name may be a letter of several bytes.
        let name = before[start.unwrap_or(0)..].trim_start_matches(|letter| !is_in_name(letter));
        let is_variable = name.len() > 1 && !name.contains(|it: char| it.is_ascii_lowercase());
        let is_others = name.starts_with(PREFIX) && !is_own(name);
        is_variable && (is_others || SECRET_VARIABLES.iter().any(|word| name.contains(word)))
    });
    secrets.next().map(|position| position + 1)
}

/// Returns the position after the `=` or `:` that follows the name of a secret.
fn secret_start(line: &str) -> Option<usize> {
    let lower = line.to_ascii_lowercase();
    let ends = SECRET_NAMES.iter().flat_map(|name| {
        let found = lower.match_indices(name);
        found.map(|(start, found)| start + found.len())
    });
    let starts = ends.filter_map(|end| {
        let nearby = lower[end..].bytes().take(NAME_REST);
        let separator = nearby.into_iter().position(|byte| b"=:".contains(&byte))?;
        // Only the rest of the name may be between the two.
        let rest = &lower[end..end + separator];
        let is_name = rest
            .chars()
            .all(|letter| letter.is_ascii_alphanumeric() || "_-\"' ]".contains(letter));
        is_name.then_some(end + separator + 1)
    });
    let bearer = lower.find("bearer ").map(|start| start + "bearer".len());
    starts.chain(bearer).min()
}

/// Removes the user parts of URLs.
fn redact_users(line: &str) -> String {
    let mut shown = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(position) = rest.find("://") {
        let (scheme, after) = rest.split_at(position + "://".len());
        shown.push_str(scheme);
        let is_end = |letter: char| letter.is_whitespace() || "/?#\"'<>".contains(letter);
        let authority = &after[..after.find(is_end).unwrap_or(after.len())];
        rest = match authority.rfind('@') {
            Some(user) => {
                shown.push_str(REMOVED);
                &after[user..]
            }
            None => after,
        };
    }
    shown.push_str(rest);
    shown
}

/// Removes a token, which may be followed by a separator.
fn redact_word(word: &str) -> String {
    let token = word.trim_end_matches(|letter: char| !is_in_token(letter));
    let is_token = |start: &&str| token.starts_with(*start) && token.len() >= MIN_TOKEN;
    if TOKEN_STARTS.iter().any(is_token) {
        return format!("{REMOVED}{}", &word[token.len()..]);
    }
    word.to_owned()
}

fn is_in_token(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || "_-.".contains(letter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_removed() {
        for secret in [
            "password = \"hunter2\"",
            "\"registryToken\": \"hunter2\",",
            "Kernel command line: quiet db.password=hunter2 more",
            "AWS_SECRET_ACCESS_KEY=hunter2",
            "Authorization: Basic hunter2",
            "sent with bearer hunter2",
            "url = \"https://ann:hunter2@example.com/k.tar\"",
            "export X=ghp_hunter2hunter2hunter2",
            "[token] = hunter2",
            "the token was refused; token=hunter2",
            "key sk-hunter2hunter2hunter2 is invalid",
            "sk-proj-hunter2_hunter2-hunter2",
            "(ghp_hunter2hunter2hunter2)",
            "login github_pat_hunter2hunter2: refused",
            "https://example.com/x?a=1&b=glpat-hunter2hunter2",
            "[AKIAhunter2hunter2hu]",
            "cookie x;eyJhbGciOiJI.eyJodW50ZXIy.hunter2_hunter2",
            "layer:eyJhdXRoIjoi/hunter2+hunter2==",
            "> Proxy-Authorization: Basic hunter2",
            "{\"Authorization\": \"Basic hunter2\"}",
            "https://ann:hun=ter2,hunter2@example.com",
            "http://example.com,http://ann:hunter2@example.com:80/x",
            "https://hunter2@example.com?x",
            "MYSQL_PASS=hunter2",
            "OLDPWD=/hunter2",
            "with REGISTRY_AUTH=hunter2 and more",
            "MY_CREDENTIALS='hunter2'",
            "SECRET_X=hunter2",
            "NPM_TOKEN=hunter2",
            "\"SIGNING_KEY\": \"hunter2\"",
            "ä=PASS=hunter2",
            "CONTAINER_HOST=ssh://hunter2/run/podman.sock",
            "CONTAINER_SSHKEY=/home/hunter2/key",
        ] {
            let redacted = redact(secret);
            assert!(!redacted.contains("hunter2"), "{redacted}");
            assert!(redacted.contains(REMOVED), "{redacted}");
        }
        let url = redact("get https://ann:pw@example.com:5000/k.tar now\n");
        assert_eq!(url, "get https://[removed]@example.com:5000/k.tar now\n");
    }

    #[test]
    fn private_keys_are_removed() {
        let key = "before\n-----BEGIN OPENSSH PRIVATE KEY-----\nhunter2\n\
                   -----END OPENSSH PRIVATE KEY-----\nafter\n";
        assert_eq!(redact(key), "before\n[removed]\nafter\n");
    }

    #[test]
    fn values_of_environments_are_removed() {
        let json = r#"{"a":{"initEnvironment":["LANG=C","PW=hunter2"]},"memory":7}"#;
        let redacted: Value = serde_json::from_str(&redact(json)).unwrap();
        let expected = serde_json::json!({
            "a": { "initEnvironment": ["LANG=[removed]", "PW=[removed]"] },
            "memory": 7,
        });
        assert_eq!(redacted, expected);
    }

    #[test]
    fn values_of_objects_with_variables_are_removed() {
        let json = r#"{"environment":{"LANG":"hunter2","more":{"env":["A=hunter2"]}},"b":"c"}"#;
        let redacted = redact(json);
        assert!(
            !redacted.contains("hunter2") && redacted.contains("LANG"),
            "{redacted}"
        );
        assert!(redacted.contains(r#""b": "c""#), "{redacted}");
    }

    #[test]
    fn everything_else_stays() {
        for text in [
            "",
            "[    0.0] Linux version 6.1 (gcc: 12)\n",
            "cpus = 4\nmemory = \"8G\"\n",
            "a tokenizer is no secret\nhttps://example.com/a@b\n",
            "CONTAINER_ACCELERATOR=kvm CONTAINER_TEMPLATES=false\n",
            "https://example.com:5000/a/sk-1:v@sha256:5f\n",
            "a task-with-a-long-name, monkey=1, PATH=/usr/bin, Keyboard: x\n",
        ] {
            assert_eq!(redact(text), text);
        }
    }
}
