//! Registries with passwords, tokens, TLS, proxies and mirrors; and pushes.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use end_to_end::{
    Authority, Fault, Lab, Outcome, TcpRelay, Terminal, TokenService, World, eventually,
};
use tempfile::TempDir;
use xtask::{
    ports::unused_address,
    registry::{AccessControl, Registry, Tls, TokenIssuer, storage},
};

crate::declare::tests![
    registry_with_password_needs_a_login,
    password_is_prompted_for_on_a_terminal,
    credentials_of_docker_and_podman_are_used,
    credential_helper_stores_credentials,
    tokens_are_requested_for_the_caller,
    private_authorities_are_trusted_if_configured,
    client_certificates_are_sent,
    wrong_scheme_is_named,
    private_registries_are_asked_over_https_first,
    proxy_variables_of_the_caller_are_used,
    mirrors_precede_their_registry,
    broken_download_from_a_mirror_is_resumed_from_the_registry,
    image_is_pushed,
    refused_pushes_are_explained,
];

/// Returns `container` with these arguments, separated by spaces.
fn container(world: &World, line: &str) -> Command {
    let mut command = world.command(&world.program());
    command.args(line.split(' '));
    command
}

fn outcome(command: &mut Command) -> Outcome {
    command.output().unwrap().into()
}

/// Runs a command, which must succeed, and returns its standard error.
fn succeed(command: &mut Command) -> String {
    let outcome = outcome(command);
    assert_eq!(outcome.code, Some(0), "{command:?}: {outcome:?}");
    outcome.stderr
}

/// Runs a command, which must fail with `words` in its error, and returns the error.
fn refused(command: &mut Command, words: &str) -> String {
    let outcome = outcome(command);
    let error = outcome.error();
    assert!(error.contains(words), "{command:?}: {outcome:?}");
    error.to_owned()
}

fn pull(world: &World, image: &str) -> Command {
    container(world, &format!("image pull {image}"))
}

/// Runs a command with `text` as its standard input.
fn run_with_input(mut command: Command, text: &str) -> Outcome {
    command.stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, text.as_bytes()).unwrap();
    drop(stdin);
    child.wait_with_output().unwrap().into()
}

fn log_in(world: &World, server: &str, password: &str) -> Outcome {
    let line = format!("--debug registry login -u ann --password-stdin {server}");
    run_with_input(container(world, &line), &format!("{password}\n"))
}

/// A registry of the test images for the user `ann` with the password `secret`.
struct PasswordRegistry {
    registry: Registry,
    _passwords: TempDir,
}

impl PasswordRegistry {
    fn start(lab: &Lab) -> PasswordRegistry {
        lab.image("busybox:1");
        let passwords = tempfile::tempdir().unwrap();
        let file = passwords.path().join("passwords");
        let mut htpasswd = Command::new("htpasswd");
        htpasswd.arg("-Bbc").arg(&file).args(["ann", "secret"]);
        assert!(htpasswd.output().unwrap().status.success());
        let access = AccessControl {
            passwords: Some(file),
            ..AccessControl::default()
        };
        PasswordRegistry {
            registry: Registry::start_restricted(&storage(), &access).unwrap(),
            _passwords: passwords,
        }
    }

    fn host(&self) -> String {
        self.registry.address().to_string()
    }

    fn image(&self) -> String {
        format!("{}/busybox:1", self.host())
    }
}

fn registry_with_password_needs_a_login(lab: &Lab) {
    let (world, registry) = (World::for_user(), PasswordRegistry::start(lab));
    let (host, image) = (registry.host(), registry.image());
    let advice = format!("container registry login {host}");
    refused(&mut pull(&world, &image), &advice);
    let create = ["create", &image, "--name", "dev", "--no-boot"];
    assert!(world.error(&create).contains(&advice));

    let wrong = log_in(&world, &host, "secret-but-wrong");
    assert_eq!(wrong.code, Some(1), "{wrong:?}");
    assert!(
        wrong
            .stderr
            .contains("does not accept this password for user ann"),
        "{wrong:?}"
    );
    let kept = world.path("config/container/auth.json");
    assert!(!kept.exists());

    let logged_in = log_in(&world, &host, "secret");
    assert_eq!(logged_in.code, Some(0), "{logged_in:?}");
    assert_eq!(logged_in.stdout, format!("{host}\n"));
    let kept_in = kept.display().to_string();
    assert!(logged_in.stderr.contains(&kept_in), "{logged_in:?}");
    let mode = fs::metadata(&kept).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    world.stdout(&create);
    let listed = outcome(&mut container(&world, "registry ls")).stdout;
    assert!(listed.contains(&host) && listed.contains("ann"), "{listed}");
    let log = fs::read_to_string(world.path("data/container/service.log")).unwrap();
    for text in [&wrong.stderr, &logged_in.stderr, &listed, &log] {
        assert!(!text.contains("secret"), "{text}");
    }

    succeed(&mut container(&world, &format!("registry logout {host}")));
    let left = fs::read_to_string(&kept).unwrap();
    assert!(!left.contains(&host), "{left}");
    let again = format!("registry logout {host}");
    refused(&mut container(&world, &again), "not logged in");
    refused(&mut pull(&world, &image), &advice);
    refused(&mut container(&world, "registry logout a/b"), "a/b");
}

fn password_is_prompted_for_on_a_terminal(lab: &Lab) {
    let (world, registry) = (World::for_user(), PasswordRegistry::start(lab));
    let login = format!("registry login {}", registry.host());
    let without = outcome(&mut container(&world, &login));
    assert!(without.error().contains("--password-stdin"), "{without:?}");

    let mut terminal = Terminal::start(&container(&world, &login), 24, 80);
    terminal.expect("Username: ");
    terminal.press("ann\r");
    terminal.expect("Password: ");
    terminal.press("secret\r");
    terminal.expect("stored in");
    let (code, screen) = terminal.end_with_screen();
    assert_eq!(code, Some(0));
    assert!(!screen.contents().contains("secret"));
    succeed(&mut pull(&world, &registry.image()));

    // An interruption while the terminal does not echo restores the echo.
    let program = world.program().display().to_string();
    let line = format!(
        "trap : INT; {program} {login} -u ann; echo code $?; stty -a | tr ' ' '\\n' | grep echo$"
    );
    let mut shell = world.command(Path::new("/bin/sh"));
    shell.args(["-c", &line]);
    let mut terminal = Terminal::start(&shell, 24, 200);
    terminal.expect("Password: ");
    terminal.press("\x03");
    terminal.expect("code 130");
    terminal.expect("\necho");
    assert_eq!(terminal.end(), Some(0));
}

fn credentials_of_docker_and_podman_are_used(lab: &Lab) {
    let (world, registry) = (World::for_root(), PasswordRegistry::start(lab));
    let auth = |host: &str| {
        // ann:secret
        format!(r#"{{"auths": {{"{host}": {{"auth": "YW5uOnNlY3JldA=="}}}}}}"#)
    };
    let (host, image) = (registry.host(), registry.image());
    let places = [
        ("home/.docker/config.json", format!("http://{host}/v2/")),
        ("runtime/containers/auth.json", format!("{host}/busybox")),
        ("config/containers/auth.json", host.clone()),
    ];
    for (place, key) in places {
        let file = world.path(place);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, auth(&key)).unwrap();
        succeed(&mut pull(&world, &image));
        let listed = outcome(&mut container(&world, "registry ls --format json")).stdout;
        assert!(listed.contains(&file.display().to_string()), "{listed}");
        let logout = format!("registry logout {host}");
        refused(&mut container(&world, &logout), "not logged in");
        fs::remove_file(&file).unwrap();
        refused(&mut pull(&world, &image), "registry login");
    }
    // The service was started without these variables; those of the caller count.
    let elsewhere = world.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("config.json"), auth(&host)).unwrap();
    succeed(pull(&world, &image).env("DOCKER_CONFIG", &elsewhere));
    let mut named = pull(&world, &image);
    named.current_dir(&elsewhere);
    succeed(named.env("REGISTRY_AUTH_FILE", "config.json"));
    refused(&mut pull(&world, &image), "registry login");
}

/// A docker credential helper that stores credentials in files in `kept`.
const HELPER: &str = r#"#!/bin/sh -e
mkdir -p "$HOME/kept"
cd "$HOME/kept"
case $1 in
store)
	cat >new
	mv new "$(sed 's/.*"ServerURL":"\([^"]*\)".*/\1/' new | tr / _)"
	;;
get) cat "$(tr / _)" 2>/dev/null || { echo credentials not found in native keychain; exit 1; } ;;
erase) rm -f "$(tr / _)" ;;
list) echo '{}' ;;
esac
"#;

/// Installs the helper as `docker-credential-files` and returns a `PATH` with it.
fn install_helper(world: &World) -> String {
    let programs = world.home().join("programs");
    fs::create_dir_all(&programs).unwrap();
    let program = programs.join("docker-credential-files");
    fs::write(&program, HELPER).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    format!("{}:/usr/bin:/bin", programs.display())
}

fn write_docker_configuration(world: &World, text: &str) {
    let file = world.home().join(".docker/config.json");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, text).unwrap();
}

fn credential_helper_stores_credentials(lab: &Lab) {
    let (world, registry) = (World::for_root(), PasswordRegistry::start(lab));
    let (host, image) = (registry.host(), registry.image());
    write_docker_configuration(&world, r#"{"credsStore": "files"}"#);
    let login = || {
        let line = format!("registry login -u ann --password-stdin {host}");
        container(&world, &line)
    };
    let without = run_with_input(login(), "secret");
    let error = without.error();
    assert!(error.contains("docker-credential-files"), "{without:?}");
    assert!(error.contains(".docker/config.json"), "{without:?}");
    let error = refused(&mut pull(&world, &image), "registry login");
    assert!(error.contains("docker-credential-files"), "{error}");

    let search_path = install_helper(&world);
    let mut command = login();
    command.env("PATH", &search_path);
    let kept = run_with_input(command, "secret");
    assert!(kept.stderr.contains("docker-credential-files"), "{kept:?}");
    assert_eq!(kept.code, Some(0), "{kept:?}");
    assert!(world.home().join("kept").join(&host).exists());
    let own = fs::read_to_string(world.path("config/container/auth.json")).unwrap();
    assert!(own.contains("files") && !own.contains("auths"), "{own}");
    succeed(pull(&world, &image).env("PATH", &search_path));
    let listed = outcome(container(&world, "registry ls").env("PATH", &search_path));
    assert!(listed.stdout.contains("ann"), "{listed:?}");
    let logout = format!("registry logout {host}");
    succeed(container(&world, &logout).env("PATH", &search_path));
    assert!(!world.home().join("kept").join(&host).exists());
}

/// Starts a registry that requires tokens.
fn start_with_tokens(lab: &Lab, service: &TokenService, storage: &Path) -> Registry {
    lab.image("busybox:1");
    let access = AccessControl {
        tokens: Some(TokenIssuer {
            realm: service.realm(),
            certificate: service.certificate(),
        }),
        ..AccessControl::default()
    };
    Registry::start_restricted(storage, &access).unwrap()
}

fn tokens_are_requested_for_the_caller(lab: &Lab) {
    let (world, service) = (World::for_root(), TokenService::start());
    let registry = start_with_tokens(lab, &service, &storage());
    let host = registry.address().to_string();
    let public = format!("{host}/busybox:1");
    let private = format!("{host}/busybox-plain:1");
    succeed(&mut pull(&world, &public));
    let asked = service.take_requests();
    assert!(
        asked.iter().all(|request| request.user.is_none()),
        "{asked:?}"
    );
    assert_eq!(asked[0].scopes, ["repository:busybox:pull"]);
    refused(&mut pull(&world, &private), "registry login");

    // Broken configurations are named, and do not prevent access to public images.
    write_docker_configuration(&world, r#"{"credsStore": "none-such"}"#);
    let said = succeed(&mut pull(&world, &public));
    assert!(said.contains("docker-credential-none-such"), "{said}");
    let error = refused(&mut pull(&world, &private), "registry login");
    assert!(error.contains("docker-credential-none-such"), "{error}");
    write_docker_configuration(&world, "{");
    let said = succeed(&mut pull(&world, &public));
    assert!(said.contains(".docker/config.json"), "{said}");
    write_docker_configuration(&world, "{}");

    let wrong = log_in(&world, &host, "wrong");
    assert!(
        wrong
            .stderr
            .contains("does not accept this password for user ann"),
        "{wrong:?}"
    );
    assert_eq!(log_in(&world, &host, "secret").code, Some(0));
    service.take_requests();
    succeed(&mut pull(&world, &private));
    let asked = service.take_requests();
    assert!(
        asked.iter().all(|request| request.user.is_some()),
        "{asked:?}"
    );
    assert!(asked.iter().all(|request| request.method == "GET"));

    let theirs = format!("{host}/theirs/app:1");
    let error = refused(&mut pull(&world, &theirs), "private to others");
    assert!(
        error.contains("ann") && error.contains("auth.json"),
        "{error}"
    );

    // An identity token instead of a password.
    succeed(&mut container(&world, &format!("registry logout {host}")));
    let search_path = install_helper(&world);
    let kept = world.home().join("kept");
    fs::create_dir_all(&kept).unwrap();
    let token = r#"{"Username": "<token>", "Secret": "refresh"}"#;
    fs::write(kept.join(&host), token).unwrap();
    let helpers = format!(r#"{{"credHelpers": {{"{host}": "files"}}}}"#);
    write_docker_configuration(&world, &helpers);
    service.take_requests();
    succeed(pull(&world, &private).env("PATH", &search_path));
    let asked = service.take_requests();
    assert_eq!(asked[0].method, "POST");
    assert_eq!(asked[0].scopes, ["repository:busybox-plain:pull"]);
    assert_eq!(asked[0].user.as_deref(), Some("ann"));

    fs::write(kept.join(&host), token.replace("refresh", "stale")).unwrap();
    let error = refused(
        pull(&world, &private).env("PATH", &search_path),
        "log in again",
    );
    assert!(error.contains("docker-credential-files"), "{error}");
}

/// Starts a registry of the test images with TLS.
fn start_encrypted(lab: &Lab, authority: &Authority, names: &str, clients: bool) -> Registry {
    lab.image("busybox:1");
    let certified = authority.certify("registry", names);
    let access = AccessControl {
        tls: Some(Tls {
            certificate: certified.certificate,
            key: certified.key,
            clients: clients.then(|| authority.certificate()),
        }),
        ..AccessControl::default()
    };
    Registry::start_restricted(&storage(), &access).unwrap()
}

/// Creates the user's directory of certificates for a registry.
fn certificates_of(world: &World, host: &str) -> PathBuf {
    let directory = world.path("config/containers/certs.d").join(host);
    fs::create_dir_all(&directory).unwrap();
    directory
}

fn private_authorities_are_trusted_if_configured(lab: &Lab) {
    let (world, authority) = (World::for_root(), Authority::create());
    let registry = start_encrypted(lab, &authority, "IP:127.0.0.1", false);
    let host = registry.address().to_string();
    let line = format!("image pull --scheme https {host}/busybox:1");
    let pull = || container(&world, &line);
    refused(&mut pull(), "is not trusted");

    let trusted = certificates_of(&world, &host).join("ca.crt");
    fs::copy(authority.certificate(), &trusted).unwrap();
    succeed(&mut pull());
    fs::write(&trusted, "this is none").unwrap();
    refused(&mut pull(), &trusted.display().to_string());
    fs::remove_file(&trusted).unwrap();
    refused(&mut pull(), "is not trusted");

    let ca = authority.certificate().display().to_string();
    succeed(pull().env("SSL_CERT_FILE", &ca));
    world.configure(&format!(
        "[registry.host.\"{host}\"]\nca = \"{ca}\"\nscheme = \"https\"\n"
    ));
    succeed(&mut pull());
    let without = format!("image pull {host}/busybox:1");
    succeed(&mut container(&world, &without));
    world.configure("[registry.host.\"a.example\"]\n\nca = \"/none.crt\"\n");
    let error = refused(&mut pull(), "line 3");
    assert!(error.contains("/none.crt"), "{error}");

    world.configure("");
    let other = start_encrypted(lab, &authority, "DNS:other.example", false);
    let host = other.address().to_string();
    let trusted = certificates_of(&world, &host).join("ca.crt");
    fs::copy(authority.certificate(), &trusted).unwrap();
    let line = format!("image pull --scheme https {host}/busybox:1");
    refused(&mut container(&world, &line), "is not trusted");
}

fn client_certificates_are_sent(lab: &Lab) {
    let (world, authority) = (World::for_root(), Authority::create());
    let registry = start_encrypted(lab, &authority, "IP:127.0.0.1", true);
    let host = registry.address().to_string();
    let line = format!("image pull --scheme https {host}/busybox:1");
    let directory = certificates_of(&world, &host);
    fs::copy(authority.certificate(), directory.join("ca.crt")).unwrap();
    refused(
        &mut container(&world, &line),
        "requires a client certificate",
    );
    let client = authority.certify("client", "DNS:client");
    client.copy_to(&directory, "client");
    succeed(&mut container(&world, &line));
    fs::remove_file(directory.join("client.key")).unwrap();
    refused(&mut container(&world, &line), "client.key");
}

fn wrong_scheme_is_named(lab: &Lab) {
    let (world, authority) = (World::for_root(), Authority::create());
    let image = lab.image("busybox:1");
    succeed(&mut pull(&world, &image));
    let https = format!("image pull --scheme https {image}");
    // The image in the store is not used instead.
    refused(&mut container(&world, &https), "does not support https");
    let create = ["create", &image, "--no-boot", "--scheme", "https"];
    assert!(world.error(&create).contains("does not support https"));
    assert_eq!(world.bundles(), [""; 0]);
    let encrypted = start_encrypted(lab, &authority, "IP:127.0.0.1", false);
    let image = format!("{}/busybox:1", encrypted.address());
    refused(&mut pull(&world, &image), "supports https only");
}

/// An HTTP proxy that resolves `registry.internal` to this host. Nothing else resolves that name.
struct Proxy {
    process: Child,
    address: SocketAddr,
    log: PathBuf,
    _directory: TempDir,
}

impl Proxy {
    fn start() -> Proxy {
        let address = unused_address().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| directory.path().join(name);
        let log = file("log");
        let text = format!(
            "Port {}\nListen 127.0.0.1\nLogFile \"{}\"\nLogLevel Connect\nMaxClients 20\n\
             BasicAuth proxy hush\n",
            address.port(),
            log.display()
        );
        fs::write(file("configuration"), text).unwrap();
        fs::write(file("hosts"), "127.0.0.1 registry.internal\n").unwrap();
        let line = "mount --bind \"$1\" /etc/hosts && exec tinyproxy -d -c \"$2\"";
        let process = Command::new("unshare")
            .args(["--mount", "sh", "-c", line, "sh"])
            .args([file("hosts"), file("configuration")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        eventually("the proxy answers", || TcpStream::connect(address).is_ok());
        Proxy {
            process,
            address,
            log,
            _directory: directory,
        }
    }

    fn url(&self) -> String {
        format!("http://proxy:hush@{}", self.address)
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Registries in a private network have HTTPS, or else get no credentials.
fn private_registries_are_asked_over_https_first(lab: &Lab) {
    let (world, proxy, authority) = (World::for_root(), Proxy::start(), Authority::create());
    let registry = start_encrypted(lab, &authority, "DNS:registry.internal", false);
    let encrypted = format!("registry.internal:{}/busybox:1", registry.address().port());
    let over_proxy = |image: &str| {
        let mut command = pull(&world, image);
        command.env("ALL_PROXY", proxy.url());
        command
    };
    // Nothing is requested over plain HTTP then.
    refused(&mut over_proxy(&encrypted), "is not trusted");
    let ca = authority.certificate();
    succeed(over_proxy(&encrypted).env("SSL_CERT_FILE", &ca));
    assert!(!proxy.log().contains("GET http://"), "{}", proxy.log());

    let plain = lab
        .image("busybox:1")
        .replace("127.0.0.1", "registry.internal");
    succeed(&mut over_proxy(&plain));
    assert!(proxy.log().contains("GET http://"), "{}", proxy.log());
}

fn proxy_variables_of_the_caller_are_used(lab: &Lab) {
    let (world, proxy, authority) = (World::for_root(), Proxy::start(), Authority::create());
    let plain = lab.image("busybox:1");
    let named = |image: &str| image.replace("127.0.0.1", "registry.internal");
    // The command that starts the service has no proxy.
    refused(&mut pull(&world, &named(&plain)), "registry.internal");
    succeed(pull(&world, &named(&plain)).env("HTTP_PROXY", proxy.url()));
    assert!(proxy.log().contains("registry.internal"), "{}", proxy.log());

    let registry = start_encrypted(lab, &authority, "DNS:registry.internal", false);
    let encrypted = named(&format!("{}/busybox:1", registry.address()));
    let line = format!("image pull --scheme https {encrypted}");
    let ca = authority.certificate();
    let encrypted = || {
        let mut command = container(&world, &line);
        command.env("SSL_CERT_FILE", &ca);
        command
    };
    refused(
        encrypted().env("HTTP_PROXY", proxy.url()),
        "registry.internal",
    );
    succeed(encrypted().env("https_proxy", proxy.url()));
    assert!(proxy.log().contains("CONNECT"), "{}", proxy.log());

    let mut without = encrypted();
    without.env("ALL_PROXY", proxy.url());
    succeed(&mut without);
    let said = succeed(without.arg("--debug"));
    assert!(
        said.contains("ALL_PROXY") && !said.contains("hush"),
        "{said}"
    );
    // The image is in the store and is used if the registry cannot be reached.
    let said = succeed(without.env("NO_PROXY", "example.com,.internal"));
    assert!(said.contains("registry.internal"), "{said}");
    assert!(said.contains("using the image fetched before"), "{said}");

    let down = format!("http://proxy:hush@{}", unused_address().unwrap());
    let image = named(&lab.image("busybox-plain:1"));
    let error = refused(
        pull(&world, &image).env("http_proxy", &down),
        "through the proxy",
    );
    assert!(
        error.contains("http_proxy") && !error.contains("hush"),
        "{error}"
    );
    let error = refused(pull(&world, &image).env("HTTP_PROXY", "::"), "HTTP_PROXY");
    assert!(error.contains("valid proxy address"), "{error}");
    // Connections to loopback do not use the proxy.
    succeed(pull(&world, &lab.image("busybox-plain:1")).env("HTTP_PROXY", &down));
    let log = fs::read_to_string(world.path("data/container/service.log")).unwrap();
    assert!(!log.contains("hush"), "{log}");
}

fn mirrors_precede_their_registry(lab: &Lab) {
    let world = World::for_root();
    let image = lab.image("busybox:1");
    let (live, _) = image.split_once('/').unwrap();
    let storage = tempfile::tempdir().unwrap();
    let empty = Registry::start(storage.path()).unwrap();
    let empty = empty.address();
    let down = unused_address().unwrap();
    // The registry does not exist. Of its mirrors, the first is down and the second is empty.
    world.configure(&format!(
        "[registry.host.\"registry.internal\"]\nmirrors = [\"{down}\", \"{empty}/cache\", \"{live}\"]\n"
    ));
    let create = [
        "create",
        "registry.internal/busybox:1",
        "--name",
        "dev",
        "--no-boot",
    ];
    world.stdout(&create);
    let reference = &world.inspect("dev")["image"]["reference"];
    assert_eq!(*reference, "registry.internal/busybox:1");
    // If all mirrors fail, the registry is used.
    world.configure(&format!(
        "[registry.host.\"{live}\"]\nmirrors = [\"{down}\", \"{empty}\"]\n"
    ));
    succeed(&mut pull(&world, &lab.image("busybox-plain:1")));
    world.configure(&format!(
        "[registry.host.\"{empty}\"]\nmirrors = [\"{down}\"]\n"
    ));
    let error = refused(
        &mut pull(&world, &format!("{empty}/none:1")),
        "image not found",
    );
    assert!(error.contains(&empty.to_string()), "{error}");
}

/// The mirror breaks each connection in the middle of a layer.
fn broken_download_from_a_mirror_is_resumed_from_the_registry(lab: &Lab) {
    let world = World::for_root();
    let image = lab.image("busybox:1");
    let (live, _) = image.split_once('/').unwrap();
    let mirror = TcpRelay::start(live.parse().unwrap(), Fault::BreakAfter(100_000));
    world.configure(&format!(
        "[registry.host.\"{live}\"]\nmirrors = [\"{}\"]\n",
        mirror.address()
    ));
    world.create(&image, "dev", &["--no-boot"]);
    let received = mirror.received();
    assert!((100_000..300_000).contains(&received), "{received}");
}

/// Stores an image with a name in the registry `host`, by pulling it from a mirror of that
/// registry.
fn store_image_as(world: &World, lab: &Lab, host: &str) -> String {
    let image = lab.image("busybox:1");
    let (live, name) = image.split_once('/').unwrap();
    world.configure(&format!(
        "[registry.host.\"{host}\"]\nmirrors = [\"{live}\"]\n"
    ));
    let image = format!("{host}/{name}");
    succeed(&mut pull(world, &image));
    world.configure("");
    image
}

fn image_is_pushed(lab: &Lab) {
    let (world, service) = (World::for_root(), TokenService::start());
    let storage = tempfile::tempdir().unwrap();
    let registry = start_with_tokens(lab, &service, storage.path());
    let host = registry.address().to_string();
    let none = format!("image push {host}/none:1");
    refused(
        &mut container(&world, &none),
        "image not found in the store",
    );
    let image = store_image_as(&world, lab, &host);
    let push = format!("image push {image}");
    let error = refused(
        &mut container(&world, &push),
        "not writable without a login",
    );
    assert!(error.contains("container registry login"), "{error}");
    assert_eq!(log_in(&world, &host, "secret").code, Some(0));
    service.take_requests();
    let pushed = outcome(&mut container(&world, &push));
    assert_eq!(pushed.code, Some(0), "{pushed:?}");
    let name = format!("{host}/busybox@sha256:");
    assert!(pushed.stdout.starts_with(&name), "{pushed:?}");
    let asked = service.take_requests();
    assert_eq!(asked[0].scopes, ["repository:busybox:pull,push"]);
    assert_eq!(asked.len(), 1, "{asked:?}");
    // A second push uploads nothing.
    let again = outcome(&mut container(&world, &push));
    assert_eq!(again.stdout, pushed.stdout, "{again:?}");

    let other = World::for_root();
    let pulled = outcome(&mut pull(&other, &image));
    assert_eq!(pulled.stdout, pushed.stdout, "{pulled:?}");
    other.create(&image, "dev", &["--no-boot"]);
    // Other tools can pull it.
    let root = tempfile::tempdir().unwrap();
    let mut buildah = Command::new("buildah");
    for option in ["--root", "--runroot"] {
        buildah
            .arg(option)
            .arg(root.path().join(option.trim_start_matches('-')));
    }
    buildah.args([
        "--storage-driver",
        "vfs",
        "pull",
        "--tls-verify=false",
        &image,
    ]);
    succeed(&mut buildah);
}

fn refused_pushes_are_explained(lab: &Lab) {
    let world = World::for_root();
    let storage = tempfile::tempdir().unwrap();
    let access = AccessControl {
        read_only: true,
        ..AccessControl::default()
    };
    let registry = Registry::start_restricted(storage.path(), &access).unwrap();
    let image = store_image_as(&world, lab, &registry.address().to_string());
    let push = format!("image push {image}");
    refused(&mut container(&world, &push), "read-only");
    drop(registry);
    refused(&mut container(&world, &push), "cannot connect to registry");

    let full = FullDisk::mount();
    let registry = Registry::start(full.0.path()).unwrap();
    let image = store_image_as(&world, lab, &registry.address().to_string());
    let push = format!("image push {image}");
    refused(&mut container(&world, &push), "no space left");
}

/// A file system that is too small for an image. It is unmounted on drop.
struct FullDisk(TempDir);

impl FullDisk {
    fn mount() -> FullDisk {
        let directory = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=256k", "full"])
            .arg(directory.path())
            .status();
        assert!(mounted.unwrap().success());
        FullDisk(directory)
    }
}

impl Drop for FullDisk {
    fn drop(&mut self) {
        // Whatever lists mounts keeps them busy for a moment.
        let mut umount = Command::new("umount");
        let _ = umount.arg("--lazy").arg(self.0.path()).status();
    }
}
