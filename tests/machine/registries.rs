//! Registries that are not for everyone, that are encrypted, that are reached through a proxy or
//! a mirror, and that are written to.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use end_to_end::{Authority, Fault, Lab, Outcome, Terminal, TokenService, Wire, World, eventually};
use tempfile::TempDir;
use xtask::registry::{Guard, Registry, Tls, Tokens, storage};

crate::tests![
    a_password_opens_a_registry,
    a_password_is_asked_for_at_a_terminal,
    credentials_of_docker_and_podman_count,
    a_program_keeps_credentials,
    tokens_are_got_for_whoever_asks,
    authorities_of_ones_own,
    a_registry_that_wants_a_certificate,
    the_wrong_scheme_is_told,
    proxies_of_the_caller,
    mirrors_come_first,
    what_a_mirror_breaks_off_goes_on,
    an_image_is_pushed,
    pushes_that_are_refused,
];

/// `container` with these arguments, in this world.
fn container(world: &World, line: &str) -> Command {
    let mut command = world.command_of(&world.program());
    command.args(line.split(' '));
    command
}

fn outcome(command: &mut Command) -> Outcome {
    command.output().unwrap().into()
}

/// The command succeeds; what it said on the side.
fn done(command: &mut Command) -> String {
    let outcome = outcome(command);
    assert_eq!(outcome.code, Some(0), "{command:?}: {outcome:?}");
    outcome.stderr
}

/// The command fails with this in its error.
fn refused(command: &mut Command, said: &str) -> String {
    let outcome = outcome(command);
    let error = outcome.error();
    assert!(error.contains(said), "{command:?}: {outcome:?}");
    error.to_owned()
}

fn pull(world: &World, image: &str) -> Command {
    container(world, &format!("image pull {image}"))
}

/// A command that reads this.
fn told(mut command: Command, text: &str) -> Outcome {
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
    told(container(world, &line), &format!("{password}\n"))
}

/// The test images' registry, where only `ann` with the password `secret` may come in.
struct Guarded {
    registry: Registry,
    _passwords: TempDir,
}

impl Guarded {
    fn start(lab: &Lab) -> Guarded {
        // The images are made by whoever asks for one first.
        lab.image("busybox:1");
        let passwords = tempfile::tempdir().unwrap();
        let file = passwords.path().join("passwords");
        let mut htpasswd = Command::new("htpasswd");
        htpasswd.arg("-Bbc").arg(&file).args(["ann", "secret"]);
        assert!(htpasswd.output().unwrap().status.success());
        let guard = Guard {
            passwords: Some(file),
            ..Guard::default()
        };
        Guarded {
            registry: Registry::start_guarded(&storage(), &guard).unwrap(),
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

fn a_password_opens_a_registry(lab: &Lab) {
    let (world, guarded) = (World::of_user(), Guarded::start(lab));
    let (host, image) = (guarded.host(), guarded.image());
    let advice = format!("container registry login {host}");
    refused(&mut pull(&world, &image), &advice);
    let create = ["create", &image, "--name", "dev", "--no-boot"];
    assert!(world.error(&create).contains(&advice));

    let wrong = log_in(&world, &host, "secret-but-wrong");
    assert_eq!(wrong.code, Some(1), "{wrong:?}");
    assert!(wrong.stderr.contains("does not accept ann"), "{wrong:?}");
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

    done(&mut container(&world, &format!("registry logout {host}")));
    let left = fs::read_to_string(&kept).unwrap();
    assert!(!left.contains(&host), "{left}");
    let again = format!("registry logout {host}");
    refused(&mut container(&world, &again), "nobody is logged in");
    refused(&mut pull(&world, &image), &advice);
    refused(&mut container(&world, "registry logout a/b"), "a/b");
}

fn a_password_is_asked_for_at_a_terminal(lab: &Lab) {
    let (world, guarded) = (World::of_user(), Guarded::start(lab));
    let login = format!("registry login {}", guarded.host());
    let without = outcome(&mut container(&world, &login));
    assert!(without.error().contains("--password-stdin"), "{without:?}");

    let mut terminal = Terminal::start(&container(&world, &login), 24, 80);
    terminal.expect("Username: ");
    terminal.press("ann\r");
    terminal.expect("Password: ");
    terminal.press("secret\r");
    terminal.expect("are kept in");
    let (code, screen) = terminal.end_with_screen();
    assert_eq!(code, Some(0));
    assert!(!screen.contents().contains("secret"));
    done(&mut pull(&world, &guarded.image()));

    // Given up while nothing is shown: the shell's terminal shows again what is typed.
    let program = world.program().display().to_string();
    let line = format!(
        "trap : INT; {program} {login} -u ann; echo code $?; stty -a | tr ' ' '\\n' | grep echo$"
    );
    let mut shell = world.command_of(Path::new("/bin/sh"));
    shell.args(["-c", &line]);
    let mut terminal = Terminal::start(&shell, 24, 200);
    terminal.expect("Password: ");
    terminal.press("\x03");
    terminal.expect("code 130");
    terminal.expect("\necho");
    assert_eq!(terminal.end(), Some(0));
}

fn credentials_of_docker_and_podman_count(lab: &Lab) {
    let (world, guarded) = (World::of_root(), Guarded::start(lab));
    let auth = |host: &str| {
        // ann:secret
        format!(r#"{{"auths": {{"{host}": {{"auth": "YW5uOnNlY3JldA=="}}}}}}"#)
    };
    let (host, image) = (guarded.host(), guarded.image());
    let places = [
        ("home/.docker/config.json", format!("http://{host}/v2/")),
        ("runtime/containers/auth.json", format!("{host}/busybox")),
        ("config/containers/auth.json", host.clone()),
    ];
    for (place, key) in places {
        let file = world.path(place);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, auth(&key)).unwrap();
        done(&mut pull(&world, &image));
        let listed = outcome(&mut container(&world, "registry ls --format json")).stdout;
        assert!(listed.contains(&file.display().to_string()), "{listed}");
        let logout = format!("registry logout {host}");
        refused(&mut container(&world, &logout), "nobody is logged in");
        fs::remove_file(&file).unwrap();
        refused(&mut pull(&world, &image), "registry login");
    }
    // The service was started by somebody whose environment says nothing of these.
    let elsewhere = world.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("config.json"), auth(&host)).unwrap();
    done(pull(&world, &image).env("DOCKER_CONFIG", &elsewhere));
    let mut named = pull(&world, &image);
    named.current_dir(&elsewhere);
    done(named.env("REGISTRY_AUTH_FILE", "config.json"));
    refused(&mut pull(&world, &image), "registry login");
}

/// A program that keeps credentials in files below `kept`, as docker's keep them elsewhere.
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

/// Installs it as `docker-credential-files`, and returns the search path that it is on.
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

fn a_program_keeps_credentials(lab: &Lab) {
    let (world, guarded) = (World::of_root(), Guarded::start(lab));
    let (host, image) = (guarded.host(), guarded.image());
    write_docker_configuration(&world, r#"{"credsStore": "files"}"#);
    let login = || {
        let line = format!("registry login -u ann --password-stdin {host}");
        container(&world, &line)
    };
    let without = told(login(), "secret");
    let error = without.error();
    assert!(error.contains("docker-credential-files"), "{without:?}");
    assert!(error.contains(".docker/config.json"), "{without:?}");
    let error = refused(&mut pull(&world, &image), "registry login");
    assert!(error.contains("docker-credential-files"), "{error}");

    let search_path = install_helper(&world);
    let mut command = login();
    command.env("PATH", &search_path);
    let kept = told(command, "secret");
    assert!(kept.stderr.contains("docker-credential-files"), "{kept:?}");
    assert_eq!(kept.code, Some(0), "{kept:?}");
    assert!(world.home().join("kept").join(&host).exists());
    let own = fs::read_to_string(world.path("config/container/auth.json")).unwrap();
    assert!(own.contains("files") && !own.contains("auths"), "{own}");
    done(pull(&world, &image).env("PATH", &search_path));
    let listed = outcome(container(&world, "registry ls").env("PATH", &search_path));
    assert!(listed.stdout.contains("ann"), "{listed:?}");
    let logout = format!("registry logout {host}");
    done(container(&world, &logout).env("PATH", &search_path));
    assert!(!world.home().join("kept").join(&host).exists());
}

/// The test images' registry, which wants tokens.
fn start_with_tokens(lab: &Lab, service: &TokenService, storage: &Path) -> Registry {
    lab.image("busybox:1");
    let guard = Guard {
        tokens: Some(Tokens {
            realm: service.realm(),
            certificate: service.certificate(),
        }),
        ..Guard::default()
    };
    Registry::start_guarded(storage, &guard).unwrap()
}

fn tokens_are_got_for_whoever_asks(lab: &Lab) {
    let (world, service) = (World::of_root(), TokenService::start());
    let registry = start_with_tokens(lab, &service, &storage());
    let host = registry.address().to_string();
    let public = format!("{host}/busybox:1");
    let private = format!("{host}/busybox-plain:1");
    done(&mut pull(&world, &public));
    let asked = service.asked();
    assert!(
        asked.iter().all(|request| request.user.is_none()),
        "{asked:?}"
    );
    assert_eq!(asked[0].scopes, ["repository:busybox:pull"]);
    refused(&mut pull(&world, &private), "registry login");

    // What is broken keeps nobody from what is for everyone, and is named.
    write_docker_configuration(&world, r#"{"credsStore": "none-such"}"#);
    let said = done(&mut pull(&world, &public));
    assert!(said.contains("docker-credential-none-such"), "{said}");
    let error = refused(&mut pull(&world, &private), "registry login");
    assert!(error.contains("docker-credential-none-such"), "{error}");
    write_docker_configuration(&world, "{");
    let said = done(&mut pull(&world, &public));
    assert!(said.contains(".docker/config.json"), "{said}");
    write_docker_configuration(&world, "{}");

    let wrong = log_in(&world, &host, "wrong");
    assert!(wrong.stderr.contains("does not accept ann"), "{wrong:?}");
    assert_eq!(log_in(&world, &host, "secret").code, Some(0));
    service.asked();
    done(&mut pull(&world, &private));
    let asked = service.asked();
    assert!(
        asked.iter().all(|request| request.user.is_some()),
        "{asked:?}"
    );
    assert!(asked.iter().all(|request| request.method == "GET"));

    let theirs = format!("{host}/theirs/app:1");
    let error = refused(&mut pull(&world, &theirs), "is for others");
    assert!(
        error.contains("ann") && error.contains("auth.json"),
        "{error}"
    );

    // An identity token in the place of a password.
    done(&mut container(&world, &format!("registry logout {host}")));
    let search_path = install_helper(&world);
    let kept = world.home().join("kept");
    fs::create_dir_all(&kept).unwrap();
    let token = r#"{"Username": "<token>", "Secret": "refresh"}"#;
    fs::write(kept.join(&host), token).unwrap();
    let helpers = format!(r#"{{"credHelpers": {{"{host}": "files"}}}}"#);
    write_docker_configuration(&world, &helpers);
    service.asked();
    done(pull(&world, &private).env("PATH", &search_path));
    let asked = service.asked();
    assert_eq!(asked[0].method, "POST");
    assert_eq!(asked[0].scopes, ["repository:busybox-plain:pull"]);
    assert_eq!(asked[0].user.as_deref(), Some("ann"));

    fs::write(kept.join(&host), token.replace("refresh", "stale")).unwrap();
    let error = refused(
        pull(&world, &private).env("PATH", &search_path),
        "log in anew",
    );
    assert!(error.contains("docker-credential-files"), "{error}");
}

/// The test images' registry, encrypted.
fn start_encrypted(lab: &Lab, authority: &Authority, names: &str, clients: bool) -> Registry {
    lab.image("busybox:1");
    let certified = authority.certify("registry", names);
    let guard = Guard {
        tls: Some(Tls {
            certificate: certified.certificate,
            key: certified.key,
            clients: clients.then(|| authority.certificate()),
        }),
        ..Guard::default()
    };
    Registry::start_guarded(&storage(), &guard).unwrap()
}

/// Where this world's user may put certificates for a registry.
fn certificates_of(world: &World, host: &str) -> PathBuf {
    let directory = world.path("config/containers/certs.d").join(host);
    fs::create_dir_all(&directory).unwrap();
    directory
}

fn authorities_of_ones_own(lab: &Lab) {
    let (world, authority) = (World::of_root(), Authority::found());
    let registry = start_encrypted(lab, &authority, "IP:127.0.0.1", false);
    let host = registry.address().to_string();
    let line = format!("image pull --scheme https {host}/busybox:1");
    let pull = || container(&world, &line);
    refused(&mut pull(), "cannot be trusted");

    let trusted = certificates_of(&world, &host).join("ca.crt");
    fs::copy(authority.certificate(), &trusted).unwrap();
    done(&mut pull());
    fs::write(&trusted, "this is none").unwrap();
    refused(&mut pull(), &trusted.display().to_string());
    fs::remove_file(&trusted).unwrap();
    refused(&mut pull(), "cannot be trusted");

    let ca = authority.certificate().display().to_string();
    done(pull().env("SSL_CERT_FILE", &ca));
    world.configure(&format!(
        "[registry.host.\"{host}\"]\nca = \"{ca}\"\nscheme = \"https\"\n"
    ));
    done(&mut pull());
    let without = format!("image pull {host}/busybox:1");
    done(&mut container(&world, &without));
    world.configure("[registry.host.\"a.example\"]\n\nca = \"/none.crt\"\n");
    let error = refused(&mut pull(), "line 3");
    assert!(error.contains("/none.crt"), "{error}");

    world.configure("");
    let other = start_encrypted(lab, &authority, "DNS:other.example", false);
    let host = other.address().to_string();
    let trusted = certificates_of(&world, &host).join("ca.crt");
    fs::copy(authority.certificate(), &trusted).unwrap();
    let line = format!("image pull --scheme https {host}/busybox:1");
    refused(&mut container(&world, &line), "cannot be trusted");
}

fn a_registry_that_wants_a_certificate(lab: &Lab) {
    let (world, authority) = (World::of_root(), Authority::found());
    let registry = start_encrypted(lab, &authority, "IP:127.0.0.1", true);
    let host = registry.address().to_string();
    let line = format!("image pull --scheme https {host}/busybox:1");
    let directory = certificates_of(&world, &host);
    fs::copy(authority.certificate(), directory.join("ca.crt")).unwrap();
    refused(&mut container(&world, &line), "wants a certificate of you");
    let client = authority.certify("client", "DNS:client");
    client.copy_to(&directory, "client");
    done(&mut container(&world, &line));
    fs::remove_file(directory.join("client.key")).unwrap();
    refused(&mut container(&world, &line), "client.key");
}

fn the_wrong_scheme_is_told(lab: &Lab) {
    let (world, authority) = (World::of_root(), Authority::found());
    let image = lab.image("busybox:1");
    done(&mut pull(&world, &image));
    let https = format!("image pull --scheme https {image}");
    // The image of before is not used in its place.
    refused(&mut container(&world, &https), "does not speak https");
    let create = ["create", &image, "--no-boot", "--scheme", "https"];
    assert!(world.error(&create).contains("does not speak https"));
    assert_eq!(world.bundles(), [""; 0]);
    let encrypted = start_encrypted(lab, &authority, "IP:127.0.0.1", false);
    let image = format!("{}/busybox:1", encrypted.address());
    refused(&mut pull(&world, &image), "speaks https only");
}

/// A proxy for which `registry.internal`, and no one else, is this host.
struct Proxy {
    process: Child,
    address: SocketAddr,
    log: PathBuf,
    _directory: TempDir,
}

impl Proxy {
    fn start() -> Proxy {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
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

fn proxies_of_the_caller(lab: &Lab) {
    let (world, proxy, authority) = (World::of_root(), Proxy::start(), Authority::found());
    let plain = lab.image("busybox:1");
    let named = |image: &str| image.replace("127.0.0.1", "registry.internal");
    // Whoever starts the service has no proxy.
    refused(&mut pull(&world, &named(&plain)), "registry.internal");
    done(pull(&world, &named(&plain)).env("HTTP_PROXY", proxy.url()));
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
    done(encrypted().env("https_proxy", proxy.url()));
    assert!(proxy.log().contains("CONNECT"), "{}", proxy.log());

    let mut without = encrypted();
    without.env("ALL_PROXY", proxy.url());
    done(&mut without);
    let said = done(without.arg("--debug"));
    assert!(
        said.contains("ALL_PROXY") && !said.contains("hush"),
        "{said}"
    );
    // The image is here by now, so that it is used.
    let said = done(without.env("NO_PROXY", "example.com,.internal"));
    assert!(said.contains("registry.internal"), "{said}");
    assert!(
        said.contains("Using the image as it was fetched before"),
        "{said}"
    );

    let down = format!("http://proxy:hush@127.0.0.1:{}", unused_port());
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
    assert!(error.contains("address of a proxy"), "{error}");
    // Loopback needs none.
    done(pull(&world, &lab.image("busybox-plain:1")).env("HTTP_PROXY", &down));
    let log = fs::read_to_string(world.path("data/container/service.log")).unwrap();
    assert!(!log.contains("hush"), "{log}");
}

fn unused_port() -> u16 {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    free.local_addr().unwrap().port()
}

fn mirrors_come_first(lab: &Lab) {
    let world = World::of_root();
    let image = lab.image("busybox:1");
    let (live, _) = image.split_once('/').unwrap();
    let storage = tempfile::tempdir().unwrap();
    let empty = Registry::start(storage.path()).unwrap();
    let empty = empty.address();
    let down = format!("127.0.0.1:{}", unused_port());
    // The registry itself is nowhere; of its mirrors one is down and one has nothing.
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
    // Mirrors that fail leave the registry itself.
    world.configure(&format!(
        "[registry.host.\"{live}\"]\nmirrors = [\"{down}\", \"{empty}\"]\n"
    ));
    done(&mut pull(&world, &lab.image("busybox-plain:1")));
    world.configure(&format!(
        "[registry.host.\"{empty}\"]\nmirrors = [\"{down}\"]\n"
    ));
    let error = refused(
        &mut pull(&world, &format!("{empty}/none:1")),
        "there is no image",
    );
    assert!(error.contains(&empty.to_string()), "{error}");
}

/// A mirror that breaks each connection in the middle of a layer: the registry itself goes on.
fn what_a_mirror_breaks_off_goes_on(lab: &Lab) {
    let world = World::of_root();
    let image = lab.image("busybox:1");
    let (live, _) = image.split_once('/').unwrap();
    let mirror = Wire::to(live.parse().unwrap(), Fault::Breaks(100_000));
    world.configure(&format!(
        "[registry.host.\"{live}\"]\nmirrors = [\"{}\"]\n",
        mirror.address()
    ));
    world.create(&image, "dev", &["--no-boot"]);
    let received = mirror.received();
    assert!((100_000..300_000).contains(&received), "{received}");
}

/// Has an image here that is called by this registry's name, which has it from a mirror.
fn have(world: &World, lab: &Lab, host: &str) -> String {
    let image = lab.image("busybox:1");
    let (live, name) = image.split_once('/').unwrap();
    world.configure(&format!(
        "[registry.host.\"{host}\"]\nmirrors = [\"{live}\"]\n"
    ));
    let image = format!("{host}/{name}");
    done(&mut pull(world, &image));
    world.configure("");
    image
}

fn an_image_is_pushed(lab: &Lab) {
    let (world, service) = (World::of_root(), TokenService::start());
    let storage = tempfile::tempdir().unwrap();
    let registry = start_with_tokens(lab, &service, storage.path());
    let host = registry.address().to_string();
    let none = format!("image push {host}/none:1");
    refused(&mut container(&world, &none), "it is not here");
    let image = have(&world, lab, &host);
    let push = format!("image push {image}");
    let error = refused(&mut container(&world, &push), "does not let everyone write");
    assert!(error.contains("container registry login"), "{error}");
    assert_eq!(log_in(&world, &host, "secret").code, Some(0));
    service.asked();
    let pushed = outcome(&mut container(&world, &push));
    assert_eq!(pushed.code, Some(0), "{pushed:?}");
    let name = format!("{host}/busybox@sha256:");
    assert!(pushed.stdout.starts_with(&name), "{pushed:?}");
    let asked = service.asked();
    assert_eq!(asked[0].scopes, ["repository:busybox:pull,push"]);
    assert_eq!(asked.len(), 1, "{asked:?}");
    // Again: nothing is missing there.
    let again = outcome(&mut container(&world, &push));
    assert_eq!(again.stdout, pushed.stdout, "{again:?}");

    let other = World::of_root();
    let pulled = outcome(&mut pull(&other, &image));
    assert_eq!(pulled.stdout, pushed.stdout, "{pulled:?}");
    other.create(&image, "dev", &["--no-boot"]);
    // Another's tools read it, too.
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
    done(&mut buildah);
}

fn pushes_that_are_refused(lab: &Lab) {
    let world = World::of_root();
    let storage = tempfile::tempdir().unwrap();
    let guard = Guard {
        read_only: true,
        ..Guard::default()
    };
    let registry = Registry::start_guarded(storage.path(), &guard).unwrap();
    let image = have(&world, lab, &registry.address().to_string());
    let push = format!("image push {image}");
    refused(&mut container(&world, &push), "read-only");
    drop(registry);
    refused(&mut container(&world, &push), "no registry can be reached");

    let full = world.path("full");
    fs::create_dir(&full).unwrap();
    let mut mount = Command::new("mount");
    mount
        .args(["-t", "tmpfs", "-o", "size=256k", "none"])
        .arg(&full);
    assert!(mount.status().unwrap().success());
    let registry = Registry::start(&full).unwrap();
    let image = have(&world, lab, &registry.address().to_string());
    let push = format!("image push {image}");
    refused(&mut container(&world, &push), "no space left");
    drop(registry);
    assert!(
        Command::new("umount")
            .arg(&full)
            .status()
            .unwrap()
            .success()
    );
}
