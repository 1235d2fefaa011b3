use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt, path::Path};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::{Access, Environment, Registries, RegistryHost, Scheme};

/// User with a home directory and environment.
struct TestUser {
    root: TempDir,
    environment: Environment,
    registries: Registries,
}

impl TestUser {
    fn new() -> TestUser {
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
        TestUser {
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

    /// Installs a helper `docker-credential-NAME` that stores credentials in files.
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

    async fn find(&self, host: &str, repository: &str) -> CredentialLookup {
        find(&host.parse().unwrap(), repository, self.access()).await
    }

    /// Returns the user name of the credentials that are found.
    async fn username(&self, host: &str, repository: &str) -> Option<String> {
        let found = self.find(host, repository).await.found;
        found.map(|found| found.credential.username().to_owned())
    }
}

/// Formats a file with entries of these keys and user names.
fn auth_file(entries: &[(&str, &str)]) -> String {
    let auth = |user: &str| file::encode(user, &Secret::new("p:w".to_owned()));
    let entries: BTreeMap<&str, Value> = entries
        .iter()
        .map(|(key, user)| (*key, json!({ "auth": auth(user) })))
        .collect();
    json!({ "auths": entries }).to_string()
}

#[tokio::test]
async fn the_first_file_with_credentials_is_used() {
    let mut user = TestUser::new();
    let files = [
        ("home/.docker/config.json", "docker"),
        ("home/.config/containers/auth.json", "podman-config"),
        ("run/containers/auth.json", "podman-run"),
        ("named.json", "named"),
        ("own/auth.json", "own"),
    ];
    let named = user.root.path().join("named.json").display().to_string();
    user.set("REGISTRY_AUTH_FILE", &named);
    assert_eq!(user.username("quay.io", "a").await, None);
    for (path, name) in files {
        user.write(path, &auth_file(&[("quay.io", name)]));
        assert_eq!(user.username("quay.io", "a").await.as_deref(), Some(name));
        assert_eq!(user.username("other.io", "a").await, None);
    }
    let elsewhere = user.root.path().join("docker").display().to_string();
    user.set("DOCKER_CONFIG", &elsewhere);
    user.write(
        "docker/config.json",
        &auth_file(&[("other.io", "elsewhere")]),
    );
    assert_eq!(
        user.username("other.io", "a").await.as_deref(),
        Some("elsewhere")
    );
}

#[tokio::test]
async fn the_longest_matching_key_is_used() {
    let user = TestUser::new();
    let keys = [
        ("quay.io", "all"),
        ("quay.io/team", "team"),
        ("quay.io/team/app", "app"),
        ("https://index.docker.io/v1/", "hub"),
        ("https://old.example/v2/", "old"),
    ];
    user.write("own/auth.json", &auth_file(&keys));
    for (host, repository, name) in [
        ("quay.io", "other", "all"),
        ("quay.io", "teams/app", "all"),
        ("quay.io", "team/other", "team"),
        ("quay.io", "team/app", "app"),
        ("quay.io", "team/app/more", "app"),
        ("docker.io", "library/alpine", "hub"),
        ("old.example", "a", "old"),
    ] {
        let username = user.username(host, repository).await;
        assert_eq!(username.as_deref(), Some(name), "{host}/{repository}");
    }
}

#[tokio::test]
async fn every_form_of_an_entry_is_decoded() {
    let user = TestUser::new();
    user.write(
        "own/auth.json",
        r#"{"auths": {
            "a.example": {"username": "ann", "password": "secret"},
            "b.example": {"auth": "OnNlY3JldA==", "identitytoken": "token"},
            "c.example": {"auth": "Y2F0OnNlOmNyZXQAAA=="},
            "d.example": {}
        }, "HttpHeaders": {"X": "y"}}"#,
    );
    let find = async |host: &str| user.find(host, "a").await.found.map(|it| it.credential);
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
async fn unreadable_credentials_are_reported_without_secrets_and_skipped() {
    let user = TestUser::new();
    user.write(
        "home/.docker/config.json",
        &auth_file(&[("quay.io", "docker")]),
    );
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
        user.write("own/auth.json", broken);
        let lookup = user.find("quay.io", "a").await;
        assert_eq!(lookup.found.unwrap().credential.username(), "docker");
        let problems: Vec<String> = lookup.problems.iter().map(ToString::to_string).collect();
        assert_eq!(problems.len(), 1, "{broken}");
        assert!(problems[0].contains("own/auth.json"), "{problems:?}");
        assert!(problems[0].contains(said), "{problems:?}");
        assert!(!problems[0].contains("c2VjcmV0"), "{problems:?}");
        assert!(!problems[0].contains("secret"), "{problems:?}");
    }
    user.write("own/auth.json", "");
    assert!(user.find("quay.io", "a").await.problems.is_empty());
}

#[tokio::test]
async fn helpers_provide_credentials() {
    let user = TestUser::new();
    for name in ["all", "one"] {
        user.install_helper(name);
    }
    user.write(
        "home/.docker/config.json",
        r#"{"auths": {"quay.io": {}}, "credsStore": "all", "credHelpers": {"one.example": "one"}}"#,
    );
    let answer = |user: &str| format!(r#"{{"ServerURL":"x","Username":"{user}","Secret":"s"}}"#);
    user.write("all/quay.io", &answer("ann"));
    user.write("all/one.example", &answer("not-used"));
    user.write("one/one.example", &answer("bob"));
    user.write("all/https:__index.docker.io_v1_", &answer("<token>"));
    assert_eq!(user.username("quay.io", "a").await.as_deref(), Some("ann"));
    assert_eq!(
        user.username("one.example", "a").await.as_deref(),
        Some("bob")
    );
    assert_eq!(user.username("none.example", "a").await, None);
    let hub = user.find("docker.io", "library/a").await.found.unwrap();
    assert!(matches!(hub.credential, Credential::IdentityToken(_)));
    assert_eq!(hub.store, CredentialStore::Helper("all".to_owned()));

    user.write("all/quay.io", "{\"Username\": \"secret\"}");
    let broken = user.find("quay.io", "a").await;
    let problem = broken.problems[0].to_string();
    assert!(problem.contains("docker-credential-all get"), "{problem}");
    assert!(!problem.contains("secret"), "{problem}");
}

#[tokio::test]
async fn stored_credentials_take_precedence_and_can_be_removed() {
    let user = TestUser::new();
    user.write(
        "run/containers/auth.json",
        &auth_file(&[("quay.io", "podman")]),
    );
    user.write(
        "own/auth.json",
        r#"{"other": 1, "auths": {"https://quay.io": {}}}"#,
    );
    let host: RegistryHost = "quay.io".parse().unwrap();
    let password = Secret::new("p:w ü".to_owned());
    let (own, access) = (user.own(), user.access());
    let stored_in = store(&host, "ann", &password, own, access).await.unwrap();
    assert_eq!(stored_in, CredentialStore::File(own.to_owned()));
    let found = user.find("quay.io", "a").await.found.unwrap();
    let username = "ann".to_owned();
    assert_eq!(
        found.credential,
        Credential::Password { username, password }
    );
    let mode = fs::metadata(own).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let (logins, problems) = list_logins(access).await;
    assert!(problems.is_empty());
    assert_eq!(
        logins,
        [RegistryLogin {
            server: "quay.io".to_owned(),
            username: "ann".to_owned(),
            store: CredentialStore::File(own.to_owned()),
        }]
    );

    let outcome = remove(&host, own, access).await.unwrap();
    assert_eq!(outcome.removed, [CredentialStore::File(own.to_owned())]);
    let podman = user.root.path().join("run/containers/auth.json");
    assert_eq!(outcome.remaining, [CredentialStore::File(podman)]);
    assert_eq!(fs::read_to_string(own).unwrap(), "{\n  \"other\": 1\n}");
    let nothing = remove(&host, own, access).await.unwrap();
    assert_eq!(nothing.removed, []);
    assert_eq!(fs::read_dir(own.parent().unwrap()).unwrap().count(), 1);
}

#[tokio::test]
async fn a_link_to_the_file_is_preserved() {
    let user = TestUser::new();
    user.write("elsewhere/auth.json", "{}");
    let own = user.own();
    fs::create_dir_all(own.parent().unwrap()).unwrap();
    let target = user.root.path().join("elsewhere/auth.json");
    std::os::unix::fs::symlink(&target, own).unwrap();
    let (host, password) = ("quay.io".parse().unwrap(), Secret::new("x".to_owned()));
    let stored = store(&host, "ann", &password, own, user.access());
    stored.await.unwrap();
    assert!(fs::symlink_metadata(own).unwrap().is_symlink());
    assert!(fs::read_to_string(target).unwrap().contains("quay.io"));
}

#[tokio::test]
async fn dockers_helper_stores_our_credentials() {
    let user = TestUser::new();
    user.install_helper("all");
    user.write("home/.docker/config.json", r#"{"credsStore": "all"}"#);
    user.write(
        "run/containers/auth.json",
        &auth_file(&[("quay.io", "podman")]),
    );
    let host: RegistryHost = "quay.io".parse().unwrap();
    let password = Secret::new("secret".to_owned());
    let (own, access) = (user.own(), user.access());
    let helper = CredentialStore::Helper("all".to_owned());
    let stored_in = store(&host, "ann", &password, own, access).await.unwrap();
    assert_eq!(stored_in, helper);
    assert!(!fs::read_to_string(own).unwrap().contains("ann"));
    let found = user.find("quay.io", "a").await.found.unwrap();
    assert_eq!(
        (found.credential.username(), found.store),
        ("ann", helper.clone())
    );
    let (logins, _) = list_logins(access).await;
    let named = |login: &RegistryLogin| (login.server.clone(), login.username.clone());
    let named: Vec<_> = logins.iter().map(named).collect();
    let expected = [("listed.example", "lister"), ("quay.io", "ann")];
    assert_eq!(
        named,
        expected.map(|(one, other)| (one.to_owned(), other.to_owned()))
    );
    let outcome = remove(&host, own, access).await.unwrap();
    assert_eq!(outcome.removed, [helper]);
    assert!(!user.root.path().join("all/quay.io").exists());

    user.write("home/.docker/config.json", r#"{"credsStore": "none-such"}"#);
    let error = store(&host, "ann", &password, own, access)
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
async fn concurrent_stores_are_all_kept() {
    let user = TestUser::new();
    let hosts: Vec<RegistryHost> = (0..20)
        .map(|n| format!("r{n}.example").parse().unwrap())
        .collect();
    std::thread::scope(|threads| {
        for host in &hosts {
            let (own, access) = (user.own(), user.access());
            threads.spawn(move || {
                let password = Secret::new("x".to_owned());
                let stored = store(host, "ann", &password, own, access);
                futures::executor::block_on(stored).unwrap();
            });
        }
    });
    assert_eq!(list_logins(user.access()).await.0.len(), hosts.len());
}

#[test]
fn debug_output_has_no_secret() {
    let credential = Credential::Password {
        username: "ann".to_owned(),
        password: Secret::new("hush".to_owned()),
    };
    assert!(!format!("{credential:?}").contains("hush"));
}
