use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::{Registries, Scheme};

/// Somebody's home, with what is in it.
struct Somebody {
    root: TempDir,
    environment: Environment,
    registries: Registries,
}

impl Somebody {
    fn new() -> Somebody {
        let root = tempfile::tempdir().unwrap();
        let path = |below: &str| root.path().join(below).display().to_string();
        let variables = [
            ("HOME", path("home")),
            ("XDG_RUNTIME_DIR", path("run")),
            ("PATH", format!("{}:/usr/bin:/bin", path("bin"))),
        ];
        let variables: BTreeMap<String, String> = variables
            .map(|(name, value)| (name.to_owned(), value))
            .into();
        Somebody {
            registries: Registries {
                own_credentials: Some(root.path().join("own/auth.json")),
                ..Registries::default()
            },
            environment: variables.into(),
            root,
        }
    }

    fn own(&self) -> &Path {
        self.registries.own_credentials.as_deref().unwrap()
    }

    fn set(&mut self, name: &str, value: &str) {
        let mut variables = self.environment.variables().clone();
        variables.insert(name.to_owned(), value.to_owned());
        self.environment = variables.into();
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A program `docker-credential-NAME` that keeps what it is told in files.
    fn install_helper(&self, name: &str) {
        let kept = self.root.path().join(name).display().to_string();
        fs::create_dir_all(&kept).unwrap();
        let script = format!(
            r#"#!/bin/sh -e
cd {kept}
name() {{ tr -c 'a-z0-9.:\n' _; }}
none() {{ echo "credentials not found in native keychain"; exit 1; }}
case $1 in
get) cat "$(name)" 2>/dev/null || none ;;
erase) rm "$(name)" 2>/dev/null || none ;;
store) cat >new; server=$(sed 's/.*"ServerURL":"\([^"]*\)".*/\1/' new); mv new "$(echo "$server" | name)" ;;
list) echo '{{"listed.example": "lister"}}' ;;
esac
"#
        );
        let path = format!("bin/docker-credential-{name}");
        self.write(&path, &script);
        let path = self.root.path().join(path);
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn access(&self) -> Access<'_> {
        Access {
            scheme: Scheme::Auto,
            environment: &self.environment,
            registries: &self.registries,
        }
    }

    async fn find(&self, host: &str, repository: &str) -> Lookup {
        find(&host.parse().unwrap(), repository, self.access()).await
    }

    /// Whose credentials count.
    async fn who(&self, host: &str, repository: &str) -> Option<String> {
        let found = self.find(host, repository).await.found;
        found.map(|found| found.credential.username().to_owned())
    }
}

/// A file with one user's credentials.
fn auths(entries: &[(&str, &str)]) -> String {
    let auth = |user: &str| file::encoded(user, &Secret::new("p:w".to_owned()));
    let entries: BTreeMap<&str, Value> = entries
        .iter()
        .map(|(key, user)| (*key, json!({ "auth": auth(user) })))
        .collect();
    json!({ "auths": entries }).to_string()
}

#[tokio::test]
async fn the_first_place_that_has_some_counts() {
    let mut somebody = Somebody::new();
    let places = [
        ("home/.docker/config.json", "docker"),
        ("home/.config/containers/auth.json", "podman-config"),
        ("run/containers/auth.json", "podman-run"),
        ("named.json", "named"),
        ("own/auth.json", "own"),
    ];
    let named = somebody
        .root
        .path()
        .join("named.json")
        .display()
        .to_string();
    somebody.set("REGISTRY_AUTH_FILE", &named);
    assert_eq!(somebody.who("quay.io", "a").await, None);
    for (path, user) in places {
        somebody.write(path, &auths(&[("quay.io", user)]));
        assert_eq!(somebody.who("quay.io", "a").await.as_deref(), Some(user));
        assert_eq!(somebody.who("other.io", "a").await, None);
    }
    let elsewhere = somebody.root.path().join("docker").display().to_string();
    somebody.set("DOCKER_CONFIG", &elsewhere);
    somebody.write("docker/config.json", &auths(&[("other.io", "elsewhere")]));
    assert_eq!(
        somebody.who("other.io", "a").await.as_deref(),
        Some("elsewhere")
    );
}

#[tokio::test]
async fn the_key_that_says_most_of_a_repository_counts() {
    let somebody = Somebody::new();
    let keys = [
        ("quay.io", "all"),
        ("quay.io/team", "team"),
        ("quay.io/team/app", "app"),
        ("https://index.docker.io/v1/", "hub"),
        ("https://old.example/v2/", "old"),
    ];
    somebody.write("own/auth.json", &auths(&keys));
    for (host, repository, user) in [
        ("quay.io", "other", "all"),
        ("quay.io", "teams/app", "all"),
        ("quay.io", "team/other", "team"),
        ("quay.io", "team/app", "app"),
        ("quay.io", "team/app/more", "app"),
        ("docker.io", "library/alpine", "hub"),
        ("old.example", "a", "old"),
    ] {
        let who = somebody.who(host, repository).await;
        assert_eq!(who.as_deref(), Some(user), "{host}/{repository}");
    }
}

#[tokio::test]
async fn every_form_of_an_entry_is_read() {
    let somebody = Somebody::new();
    somebody.write(
        "own/auth.json",
        r#"{"auths": {
            "a.example": {"username": "ann", "password": "secret"},
            "b.example": {"auth": "OnNlY3JldA==", "identitytoken": "token"},
            "c.example": {"auth": "Y2F0OnNlOmNyZXQAAA=="},
            "d.example": {}
        }, "HttpHeaders": {"X": "y"}}"#,
    );
    let find = async |host: &str| somebody.find(host, "a").await.found.map(|it| it.credential);
    let password = |username: &str, password: &str| {
        Some(Credential::Password {
            username: username.to_owned(),
            password: Secret::new(password.to_owned()),
        })
    };
    assert_eq!(find("a.example").await, password("ann", "secret"));
    let token = Credential::IdentityToken(Secret::new("token".to_owned()));
    assert_eq!(find("b.example").await, Some(token));
    assert_eq!(find("c.example").await, password("cat", "se:cret"));
    assert_eq!(find("d.example").await, None);
}

#[tokio::test]
async fn what_cannot_be_read_is_named_without_secrets_and_passed_over() {
    let somebody = Somebody::new();
    somebody.write("home/.docker/config.json", &auths(&[("quay.io", "docker")]));
    for (broken, said) in [
        (r#"{"auths": {"quay.io": "c2VjcmV0"}}"#, "line 1"),
        (
            r#"{"auths": {"quay.io": {"auth": "c2VjcmV0"}}}"#,
            "\"quay.io\"",
        ),
        (
            r#"{"auths": {"quay.io": {"auth": "secret!"}}}"#,
            "\"quay.io\"",
        ),
        (
            r#"{"credHelpers": {"quay.io": "none-such"}}"#,
            "docker-credential-none-such",
        ),
        (r#"{"credsStore": "../x"}"#, "../x"),
        ("{", "line 1"),
    ] {
        somebody.write("own/auth.json", broken);
        let lookup = somebody.find("quay.io", "a").await;
        assert_eq!(lookup.found.unwrap().credential.username(), "docker");
        let problems: Vec<String> = lookup.problems.iter().map(ToString::to_string).collect();
        assert_eq!(problems.len(), 1, "{broken}");
        assert!(problems[0].contains("own/auth.json"), "{problems:?}");
        assert!(problems[0].contains(said), "{problems:?}");
        assert!(!problems[0].contains("c2VjcmV0"), "{problems:?}");
        assert!(!problems[0].contains("secret"), "{problems:?}");
    }
    somebody.write("own/auth.json", "");
    assert!(somebody.find("quay.io", "a").await.problems.is_empty());
}

#[tokio::test]
async fn programs_keep_credentials_too() {
    let somebody = Somebody::new();
    for name in ["all", "one"] {
        somebody.install_helper(name);
    }
    somebody.write(
        "home/.docker/config.json",
        r#"{"auths": {"quay.io": {}}, "credsStore": "all", "credHelpers": {"one.example": "one"}}"#,
    );
    let answer = |user: &str| format!(r#"{{"ServerURL":"x","Username":"{user}","Secret":"s"}}"#);
    somebody.write("all/quay.io", &answer("ann"));
    somebody.write("all/one.example", &answer("not-asked"));
    somebody.write("one/one.example", &answer("bob"));
    somebody.write("all/https:__index.docker.io_v1_", &answer("<token>"));
    assert_eq!(somebody.who("quay.io", "a").await.as_deref(), Some("ann"));
    assert_eq!(
        somebody.who("one.example", "a").await.as_deref(),
        Some("bob")
    );
    assert_eq!(somebody.who("none.example", "a").await, None);
    let hub = somebody.find("docker.io", "library/a").await.found.unwrap();
    assert!(matches!(hub.credential, Credential::IdentityToken(_)));
    assert_eq!(hub.place, Place::Helper("all".to_owned()));

    somebody.write("all/quay.io", "{\"Username\": \"secret\"}");
    let broken = somebody.find("quay.io", "a").await;
    let problem = broken.problems[0].to_string();
    assert!(problem.contains("docker-credential-all get"), "{problem}");
    assert!(!problem.contains("secret"), "{problem}");
}

#[tokio::test]
async fn what_is_kept_counts_most_and_can_be_forgotten() {
    let somebody = Somebody::new();
    somebody.write("run/containers/auth.json", &auths(&[("quay.io", "podman")]));
    somebody.write(
        "own/auth.json",
        r#"{"other": 1, "auths": {"https://quay.io": {}}}"#,
    );
    let host: RegistryHost = "quay.io".parse().unwrap();
    let password = Secret::new("p:w ü".to_owned());
    let (own, access) = (somebody.own(), somebody.access());
    let place = keep(&host, "ann", &password, own, access).await.unwrap();
    assert_eq!(place, Place::File(own.to_owned()));
    let found = somebody.find("quay.io", "a").await.found.unwrap();
    let username = "ann".to_owned();
    assert_eq!(
        found.credential,
        Credential::Password { username, password }
    );
    let mode = fs::metadata(own).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let (logins, problems) = logins(access).await;
    assert!(problems.is_empty());
    assert_eq!(
        logins,
        [Login {
            server: "quay.io".to_owned(),
            username: "ann".to_owned(),
            place: Place::File(own.to_owned()),
        }]
    );

    let forgotten = forget(&host, own, access).await.unwrap();
    assert_eq!(forgotten.removed, [Place::File(own.to_owned())]);
    let podman = somebody.root.path().join("run/containers/auth.json");
    assert_eq!(forgotten.left, [Place::File(podman)]);
    assert_eq!(fs::read_to_string(own).unwrap(), "{\n  \"other\": 1\n}");
    let nothing = forget(&host, own, access).await.unwrap();
    assert_eq!(nothing.removed, []);
    assert_eq!(fs::read_dir(own.parent().unwrap()).unwrap().count(), 1);
}

#[tokio::test]
async fn a_link_to_the_file_stays_one() {
    let somebody = Somebody::new();
    somebody.write("elsewhere/auth.json", "{}");
    let own = somebody.own();
    fs::create_dir_all(own.parent().unwrap()).unwrap();
    let target = somebody.root.path().join("elsewhere/auth.json");
    std::os::unix::fs::symlink(&target, own).unwrap();
    let (host, password) = ("quay.io".parse().unwrap(), Secret::new("x".to_owned()));
    let kept = keep(&host, "ann", &password, own, somebody.access());
    kept.await.unwrap();
    assert!(fs::symlink_metadata(own).unwrap().is_symlink());
    assert!(fs::read_to_string(target).unwrap().contains("quay.io"));
}

#[tokio::test]
async fn dockers_program_keeps_what_we_are_asked_to_keep() {
    let somebody = Somebody::new();
    somebody.install_helper("all");
    somebody.write("home/.docker/config.json", r#"{"credsStore": "all"}"#);
    somebody.write("run/containers/auth.json", &auths(&[("quay.io", "podman")]));
    let host: RegistryHost = "quay.io".parse().unwrap();
    let password = Secret::new("secret".to_owned());
    let (own, access) = (somebody.own(), somebody.access());
    let helper = Place::Helper("all".to_owned());
    let place = keep(&host, "ann", &password, own, access).await.unwrap();
    assert_eq!(place, helper);
    assert!(!fs::read_to_string(own).unwrap().contains("ann"));
    let found = somebody.find("quay.io", "a").await.found.unwrap();
    assert_eq!(
        (found.credential.username(), found.place),
        ("ann", helper.clone())
    );
    let (logins, _) = logins(access).await;
    let named = |login: &Login| (login.server.clone(), login.username.clone());
    let named: Vec<_> = logins.iter().map(named).collect();
    let expected = [("listed.example", "lister"), ("quay.io", "ann")];
    assert_eq!(
        named,
        expected.map(|(one, other)| (one.to_owned(), other.to_owned()))
    );
    let forgotten = forget(&host, own, access).await.unwrap();
    assert_eq!(forgotten.removed, [helper]);
    assert!(!somebody.root.path().join("all/quay.io").exists());

    somebody.write("home/.docker/config.json", r#"{"credsStore": "none-such"}"#);
    let error = keep(&host, "ann", &password, own, access)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("config.json") && error.contains("none-such"),
        "{error}"
    );
    assert_eq!(fs::read_to_string(own).unwrap(), "{}");
}

#[tokio::test]
async fn many_at_once_are_all_kept() {
    let somebody = Somebody::new();
    let hosts: Vec<RegistryHost> = (0..20)
        .map(|n| format!("r{n}.example").parse().unwrap())
        .collect();
    std::thread::scope(|threads| {
        for host in &hosts {
            let (own, access) = (somebody.own(), somebody.access());
            threads.spawn(move || {
                let password = Secret::new("x".to_owned());
                let kept = keep(host, "ann", &password, own, access);
                futures::executor::block_on(kept).unwrap();
            });
        }
    });
    assert_eq!(logins(somebody.access()).await.0.len(), hosts.len());
}

#[test]
fn nothing_shows_a_secret() {
    let credential = Credential::Password {
        username: "ann".to_owned(),
        password: Secret::new("hush".to_owned()),
    };
    assert!(!format!("{credential:?}").contains("hush"));
}
