//! Containers of an ordinary user: podman and Docker as Debian has them.

use std::{io::Write, path::Path, process::Stdio};

use end_to_end::{Lab, Outcome, World, eventually, our_kernel};

use crate::{sockets, system};

crate::declare::tests![containers_run_without_root_and_without_systemd,];

/// One machine for several subjects, because the image is large.
fn containers_run_without_root_and_without_systemd(lab: &Lab) {
    let world = World::for_user();
    world.configure("[network]\nhost-loopback = true\n");
    let kernel = our_kernel().display().to_string();
    let image = lab.image("debian-containers:12");
    world.create(&image, "dev", &["--kernel", &kernel]);
    let registry = format!("host.container.internal:{}", lab.registry().port());
    let containerfile = format!(
        "FROM {registry}/busybox-plain:1\\nRUN echo made > /built && chown 33:34 /built\\n"
    );
    world.inside(
        "dev",
        &format!("mkdir /var/tmp/box && printf '{containerfile}' > /var/tmp/box/Containerfile"),
    );
    podman_runs_containers(&world, &registry);
    sockets::clients_of_the_host_use_podman(&world);
    docker_runs_containers(&world, &registry);
    other_login_shells_get_the_images_path(&world);
    // systemd-resolved owns resolv.conf in this image.
    let answer = world.inside("dev", "resolvectl query host.docker.internal");
    assert!(answer.contains("198.19.0.1"), "{answer}");

    world.inside("dev", "sudo rm /sbin/init");
    world.stdout(&["restart", "dev"]);
    let status = &world.inspect("dev")["init"];
    assert_eq!(status, "built-in");
    let socket = world.inspect("dev")["sockets"][0]["host"].clone();
    assert!(Path::new(socket.as_str().unwrap()).exists(), "{socket}");
    let line = "podman run --rm local/built cat /built";
    assert_eq!(world.inside("dev", line), "made\n");
    system::containers_run_without_systemd(&world);
}

/// Returns a command of a container that shows its memory limit, the owners of a file of another
/// user, and whether it reaches the registry.
fn probe(registry: &str) -> String {
    format!(
        "sh -c 'cat /built /sys/fs/cgroup/memory.max; stat -c %u:%g /built; wget -q -O /dev/null http://{registry}/v2/ && echo reached'"
    )
}

/// What [`probe`] prints.
const PROBED: &str = "made\n67108864\n33:34\nreached\n";

fn podman_runs_containers(world: &World, registry: &str) {
    let inside = |line: &str| world.inside("dev", line);
    // Debian's podman copies whole directories otherwise.
    inside(
        "printf '[storage]\\ndriver = \"overlay\"\\nrunroot = \"/run/containers/storage\"\\ngraphroot = \"/var/lib/containers/storage\"\\n' | sudo tee /etc/containers/storage.conf > /dev/null",
    );
    let shown = "podman info --format '{{.Host.Security.Rootless}} {{.Store.GraphDriverName}} {{.Store.GraphRoot}}'";
    let shown = world.run(&["run", "-n", "dev", shown]);
    let home = world.home();
    assert_eq!(
        shown.stdout,
        format!(
            "true overlay {}/.local/share/containers/storage\n",
            home.display()
        )
    );
    // A mount that is not shared would be warned about.
    assert_eq!(shown.stderr, "");
    inside(&format!(
        "podman pull -q --tls-verify=false {registry}/busybox-plain:1"
    ));
    inside("podman build -q --tls-verify=false -t local/built /var/tmp/box");
    let probe = probe(registry);
    let line = format!("podman run --rm -m 64m local/built {probe}");
    assert_eq!(inside(&line), PROBED);
}

/// A daemon of the user, as a unit of the machine: Docker's own set-up program would choose a
/// context in the shared home.
fn docker_runs_containers(world: &World, registry: &str) {
    let inside = |line: &str| world.inside("dev", line);
    inside(&format!(
        "printf '[Service]\\nExecStart=/usr/share/docker.io/contrib/dockerd-rootless.sh --insecure-registry {registry}\\nDelegate=yes\\n[Install]\\nWantedBy=default.target\\n' | sudo tee /etc/systemd/user/docker.service > /dev/null"
    ));
    inside(
        "echo DOCKER_HOST=unix:///run/user/$(id -u)/docker.sock | sudo tee -a /etc/environment > /dev/null",
    );
    inside("systemctl --user daemon-reload; systemctl --user enable -q --now docker");
    eventually("Docker answers", || {
        world.run(&["run", "-n", "dev", "docker version"]).code == Some(0)
    });
    let shown = inside("docker info --format '{{.Driver}} {{.DockerRootDir}}'");
    let home = world.home();
    assert_eq!(
        shown,
        format!("overlay2 {}/.local/share/docker\n", home.display())
    );
    inside(&format!("docker pull -q {registry}/busybox-plain:1"));
    inside("docker build -q -t local/built -f /var/tmp/box/Containerfile /var/tmp/box");
    let probe = probe(registry);
    let line = format!("docker run --rm -m 64m local/built {probe}");
    assert_eq!(inside(&line), PROBED);
    for directory in [".docker", ".config/docker", ".local/share/docker"] {
        assert!(!home.join(directory).exists(), "{directory}");
    }
}

/// zsh reads no `/etc/profile`.
fn other_login_shells_get_the_images_path(world: &World) {
    world.inside("dev", "sudo chsh -s /usr/bin/zsh $(id -un)");
    let mut login = world.machine(&["run", "-n", "dev"]);
    login.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut login = login.stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = login.stdin.take().unwrap();
    stdin
        .write_all(b"print $ZSH_VERSION $options[login] $LANG $PATH\n")
        .unwrap();
    drop(stdin);
    let outcome = Outcome::from(login.wait_with_output().unwrap());
    let path = "/opt/tools/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert!(
        outcome.stdout.starts_with("5.")
            && outcome.stdout.ends_with(&format!(" on C.UTF-8 {path}\n")),
        "{outcome:?}"
    );
    world.inside("dev", "sudo chsh -s /bin/bash $(id -un)");
}
