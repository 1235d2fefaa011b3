//! Removes secrets from text.
//!
//! It removes too much rather than too little: what follows a word such as `password` and `=` or
//! `:` up to the end of the line, the user part of URLs, private keys, well-known forms of tokens,
//! and the values of environment variables in JSON. It cannot know what a program has logged, so
//! users are asked to read the result.

use serde_json::Value;

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

/// How the tokens of well-known services begin: GitHub, GitLab, Slack, AWS, npm, OpenAI and others,
/// JSON web tokens.
const TOKEN_STARTS: [&str; 12] = [
    "AKIA",
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
                    field => redact_environments(field),
                }
            }
        }
        _ => {}
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
    let shown = match secret_start(line) {
        Some(start) => format!("{} {REMOVED}", &line[..start]),
        None => line.to_owned(),
    };
    let words = shown.split_inclusive([' ', '\t', '"', '\'', ',', '=']);
    words.map(redact_word).collect()
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

/// Removes a token, and the user part of a URL.
fn redact_word(word: &str) -> String {
    let is_token = |start: &&str| word.starts_with(*start) && word.len() >= MIN_TOKEN;
    if TOKEN_STARTS.iter().any(is_token) {
        return REMOVED.to_owned();
    }
    let Some((scheme, rest)) = word.split_once("://") else {
        return word.to_owned();
    };
    let authority = rest.split('/').next().unwrap_or_default();
    match authority.rsplit_once('@') {
        Some((user, _)) => format!("{scheme}://{REMOVED}{}", &rest[user.len()..]),
        None => word.to_owned(),
    }
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
    fn everything_else_stays() {
        for text in [
            "",
            "[    0.0] Linux version 6.1 (gcc: 12)\n",
            "cpus = 4\nmemory = \"8G\"\n",
            "a tokenizer is no secret\nhttps://example.com/a@b\n",
        ] {
            assert_eq!(redact(text), text);
        }
    }
}
