//! Machines on KVM: in a machine that has it, whatever the host has (`make test-kvm`).

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    time::{Instant, UNIX_EPOCH},
};

use end_to_end::{Lab, Outcome, World, eventually};
use serde_json::Value;
use xtask::directories::target;

/// Slow tests, which only `make test-kvm` runs, one after the other.
pub(crate) const LONG: &[crate::declare::Test] = &[
    (
        "kvm::user_boots_runs_and_stops_a_machine",
        user_boots_runs_and_stops_a_machine,
    ),
    (
        "kvm::machines_outlive_their_caller",
        machines_outlive_their_caller,
    ),
    (
        "kvm::machine_follows_a_step_of_the_hosts_clock",
        machine_follows_a_step_of_the_hosts_clock,
    ),
    (
        "kvm::machine_starts_from_a_template",
        machine_starts_from_a_template,
    ),
    ("kvm::end_to_end_tests_pass", end_to_end_tests_pass),
];

/// The machine in which machines run.
struct Nest<'a> {
    world: &'a World,
}

/// User of the nest who runs machines.
const USER: &str = "ann";

impl<'a> Nest<'a> {
    /// Returns the nest, with the installed program, a user and the image `busybox`.
    fn prepare(lab: &'a Lab) -> Nest<'a> {
        let nest = Nest { world: lab.nest() };
        if nest.run("id ann").code == Some(0) {
            return nest;
        }
        nest.root("cp -a /opt/container/. /usr/local && useradd -m -s /bin/bash ann");
        let image = lab.image("busybox:1");
        let archive = nest.world.home().join("busybox.tar");
        for line in [
            &["image", "pull", &image][..],
            &["image", "save", &image, "-o", archive.to_str().unwrap()],
        ] {
            let outcome: Outcome = nest.world.container(line).output().unwrap().into();
            assert_eq!(outcome.code, Some(0), "{outcome:?}");
        }
        fs::set_permissions(&archive, fs::Permissions::from_mode(0o644)).unwrap();
        let load = format!(
            "container image load -i {} && container image tag {image} busybox",
            archive.display()
        );
        nest.user(&load);
        nest.root(&load);
        nest
    }

    /// Runs a line as root of the nest.
    fn run(&self, line: &str) -> Outcome {
        self.world.run(&["run", "-n", "nest", line])
    }

    /// Runs a line as root of the nest, which must succeed, and returns its standard output.
    fn root(&self, line: &str) -> String {
        self.world.inside("nest", line)
    }

    /// Runs a line as the user of the nest, which must succeed, and returns its standard output.
    fn user(&self, line: &str) -> String {
        self.root(&format!("runuser -l {USER} -c {}", quoted(line)))
    }

    /// Runs a line in a login session of the user, which must succeed, and logs out. Returns its
    /// standard output.
    fn session(&self, line: &str) -> String {
        let session = "systemd-run --quiet --wait --pipe --uid ann --property PAMName=login";
        self.root(&format!("{session} /bin/sh -c {}", quoted(line)))
    }

    /// Creates a small machine of the user.
    fn create(&self, name: &str) {
        let create = format!("container machine create busybox --name {name} --cpus 1 --memory 1G");
        assert_eq!(self.user(&create), format!("{name}\n"));
    }
}

/// Quotes a word for the shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn user_boots_runs_and_stops_a_machine(lab: &Lab) {
    let nest = Nest::prepare(lab);
    let info = nest.user("container system info --format json");
    let info: Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info["accelerator"]["used"], "kvm", "{info}");
    nest.create("dev");
    let name = "container machine run -n dev -- 'uname -n; cat /proc/cpuinfo'";
    let printed = nest.user(name);
    assert!(printed.starts_with("dev\n"), "{printed}");
    // The processor is the one of the nest.
    let model = "grep -m 1 'model name' /proc/cpuinfo";
    assert!(printed.contains(&nest.root(model)), "{printed}");
    nest.root("pgrep -u ann -f 'accel kvm'");
    nest.user("container machine run -n dev --root 'echo kept > /kept'");
    assert_eq!(nest.user("container machine stop dev"), "dev\n");
    let kept = nest.user("container machine run -n dev cat /kept");
    assert_eq!(kept, "kept\n");
    nest.user("container machine rm dev");
}

/// systemd's scopes keep machines running after the unit or the session that started them, as long
/// as the user's service manager runs.
fn machines_outlive_their_caller(lab: &Lab) {
    let nest = Nest::prepare(lab);
    // As strict as a host can be.
    nest.root(
        "mkdir -p /etc/systemd/logind.conf.d && printf '[Login]\\nKillUserProcesses=yes\\n' > /etc/systemd/logind.conf.d/strict.conf && systemctl restart systemd-logind && loginctl enable-linger ann",
    );
    let bus = "until test -S /run/user/$(id -u ann)/bus; do sleep 0.2; done";
    nest.root(bus);
    let info = nest.user("container system info");
    assert!(info.contains("machines continue: lingering"), "{info}");
    for machine in ["unit", "session"] {
        nest.user(&format!(
            "container machine create busybox --name {machine} --cpus 1 --memory 1G --no-boot"
        ));
    }
    // The service ends with its client's cgroup, unless it has one of its own.
    nest.run("pkill -u ann -f __service");
    nest.user(
        "XDG_RUNTIME_DIR=/run/user/$(id -u) systemd-run --user --wait --pipe --quiet container machine start unit",
    );
    nest.session("container machine start session");
    let running = "container machine ls --quiet --filter status=running";
    assert_eq!(nest.user(running), "session\nunit\n");
    for (process, scope) in [
        ("__runtime", "app.slice/container-machine-"),
        ("accel kvm", "app.slice/container-machine-"),
        ("__file-share", "app.slice/container-machine-"),
        ("__service", "app.slice/container-service-"),
    ] {
        let cgroups =
            format!("for it in $(pgrep -u ann -f '{process}'); do cat /proc/$it/cgroup; done");
        let cgroups = nest.root(&cgroups);
        assert!(!cgroups.is_empty(), "{process}");
        assert!(
            cgroups.lines().all(|it| it.contains(scope)),
            "{process}: {cgroups}"
        );
    }
    let show = "XDG_RUNTIME_DIR=/run/user/$(id -u) systemctl --user show --property Description,TimeoutStopUSec,ManagedOOMPreference 'container-machine-unit-*.scope'";
    let shown = nest.user(show);
    for line in [
        "Description=Machine unit of container",
        "TimeoutStopUSec=1min 40s",
        "ManagedOOMPreference=avoid",
    ] {
        assert!(shown.contains(line), "{shown}");
    }

    // Without lingering, the last logout shuts machines down in order.
    nest.user("container machine run -n unit --root 'echo kept > /kept'");
    nest.root("loginctl disable-linger ann; while pgrep -u ann; do sleep 0.2; done");
    assert_eq!(
        nest.user("container machine ls --quiet --filter status=running"),
        ""
    );
    let info = nest.session("container system info");
    assert!(
        info.contains("machines are stopped: the last logout"),
        "{info}"
    );
    let logs = nest.user("container machine logs unit");
    assert!(logs.contains("the machine stops"), "{logs}");
    let kept = nest.user("container machine run -n unit cat /kept");
    assert_eq!(kept, "kept\n");
    nest.user("container machine rm unit session");

    // Root's machines belong to the system.
    nest.root("container machine create busybox --name system --cpus 1 --memory 1G --no-boot");
    nest.root("systemd-run --wait --pipe --quiet container machine start system");
    let cgroup = nest.root("cat /proc/$(pgrep -u root -f __runtim[e])/cgroup");
    assert!(
        cgroup.contains("/machine.slice/container-machine-system-"),
        "{cgroup}"
    );
    nest.root("container machine rm system");
}

fn machine_follows_a_step_of_the_hosts_clock(lab: &Lab) {
    let nest = Nest::prepare(lab);
    nest.create("clock");
    let ahead = || {
        let machine = nest.user("container machine run -n clock date +%s");
        let machine: u64 = machine.trim().parse().unwrap();
        machine.saturating_sub(UNIX_EPOCH.elapsed().unwrap().as_secs())
    };
    // The nest's own clock follows that of its host, at the latest after 20 s.
    eventually("the machine follows the step", || {
        nest.root("date --set '+1 hour'");
        ahead() > 1800
    });
    eventually("the machine follows the step back", || ahead() < 1800);
    nest.user("container machine rm clock");
}

fn machine_starts_from_a_template(lab: &Lab) {
    let nest = Nest::prepare(lab);
    nest.create("template");
    // Made with a low priority.
    nest.user("cd ~/.local/share/container/templates; until ls */template.json; do sleep 1; done");
    nest.user("container machine restart template");
    assert_eq!(
        nest.user("container machine run -n template uname -n"),
        "template\n"
    );
    let inspected = nest.user("container machine inspect template");
    let inspected: Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!(inspected[0]["boot"]["kind"], "template", "{inspected}");
    nest.user("container machine rm template");
}

/// Tests that run in the nest, with worlds and users of their own.
const TESTS: [&str; 8] = [
    "stopping::stop_shuts_down_and_keeps_written_data",
    "stopping::machine_boots_after_its_engine_was_killed",
    "first_use::user_runs_commands_as_the_same_user_at_home",
    "at_home::changes_on_the_host_are_visible",
    "network::listeners_are_forwarded_at_the_machines_address",
    "suspend::a_busybox_machine_of_a_user_continues",
    "snapshots::snapshots_keep_and_restore_the_disk",
    "snapshots::snapshots_keep_and_restore_the_memory",
];

fn end_to_end_tests_pass(lab: &Lab) {
    let nest = Nest::prepare(lab);
    let scratch = target().canonicalize().unwrap().join("tmp");
    // The checkout is read-only.
    let bind = format!(
        "mkdir -p /var/tmp/target && mount --bind /var/tmp/target {0}",
        scratch.display()
    );
    nest.root(&bind);
    let program = env::current_exe().unwrap();
    let failed: Vec<&str> = TESTS
        .into_iter()
        .filter(|test| !passes(&nest, &program, test))
        .collect();
    assert!(failed.is_empty(), "failed on KVM: {failed:?}");
}

/// Runs a test in the nest. Prints how long it took, and its output if it fails.
fn passes(nest: &Nest<'_>, program: &Path, test: &str) -> bool {
    let start = Instant::now();
    let outcome = nest.run(&format!("{} --exact {test}", program.display()));
    let passes = outcome.code == Some(0);
    let word = if passes { "passed" } else { "FAILED" };
    eprintln!("{:5} s  {word} on KVM: {test}", start.elapsed().as_secs());
    if !passes {
        eprintln!("{}{}", outcome.stdout, outcome.stderr);
    }
    passes
}
