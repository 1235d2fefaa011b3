//! First steps with a machine: user, directory, services, listing, logs.

use end_to_end::{Lab, World};

crate::declare::tests![
    root_runs_commands_as_root_in_the_current_directory,
    user_runs_commands_as_the_same_user_at_home,
    commands_from_outside_the_home_run_in_the_guests_home,
    systemd_boots_without_failed_units,
    machine_has_its_name_as_host_name,
    list_and_inspect_show_machines,
    logs_contain_output_of_init_and_kernel,
    clock_has_the_hosts_time,
];

fn root_runs_commands_as_root_in_the_current_directory(lab: &Lab) {
    let world = lab.root();
    assert_eq!(world.inside("dev", "whoami"), "root\n");
    let project = world.home().join("a project");
    std::fs::create_dir_all(&project).unwrap();
    let mut pwd = world.machine(&["run", "-n", "dev", "--", "pwd"]);
    let output = pwd.current_dir(&project).output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(printed.trim_end(), project.to_str().unwrap());
}

fn user_runs_commands_as_the_same_user_at_home(lab: &Lab) {
    let world = lab.user();
    let user = world.user().unwrap();
    let home = world.home();
    assert_eq!(world.inside("dev", "whoami"), format!("{}\n", user.name));
    assert_eq!(world.inside("dev", "pwd"), format!("{}\n", home.display()));
    assert_eq!(
        world.inside("dev", "id -u; id -g; echo $HOME"),
        format!("{}\n{}\n{}\n", user.uid, user.gid, home.display())
    );
    assert_eq!(world.inside("dev", "sudo -n whoami"), "root\n");
    assert_eq!(
        world.stdout(&["run", "-n", "dev", "--root", "id", "-u"]),
        "0\n"
    );
    let sudoers = "/etc/sudoers.d/container-user";
    let granted = world.inside(
        "dev",
        &format!("sudo cat {sudoers}; sudo stat -c %a {sudoers}"),
    );
    let rule = format!("\n#{} ALL=(ALL:ALL) NOPASSWD:ALL\n440\n", user.uid);
    assert!(granted.ends_with(&rule), "{granted}");
}

fn commands_from_outside_the_home_run_in_the_guests_home(lab: &Lab) {
    let world = lab.root();
    let mut pwd = world.machine(&["run", "-n", "dev", "pwd"]);
    let output = pwd.current_dir("/usr").output().unwrap();
    let home = format!("{}\n", world.home().display());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), home);
}

fn systemd_boots_without_failed_units(lab: &Lab) {
    for world in [lab.root(), lab.user()] {
        assert_no_failed_units(world);
    }
}

/// systemd accepts requests as soon as `create` has returned.
fn assert_no_failed_units(world: &World) {
    let state = world.run(&[
        "run",
        "-n",
        "dev",
        "--",
        "systemctl",
        "is-system-running",
        "--wait",
    ]);
    let failed = world.inside("dev", "systemctl list-units --failed");
    assert_eq!(state.stdout, "running\n", "{failed}");
    assert_eq!(world.inside("dev", "systemctl is-active ssh"), "active\n");
}

fn machine_has_its_name_as_host_name(lab: &Lab) {
    let world = lab.root();
    assert_eq!(
        world.inside("dev", "hostname; cat /etc/hostname"),
        "dev\ndev\n"
    );
    assert_eq!(world.inside("dev", "echo $CONTAINER_MACHINE_ID"), "dev\n");
    let hosts = world.inside("dev", "cat /etc/hosts");
    let mut lines = hosts.lines();
    assert_eq!(lines.next(), Some("127.0.0.1 localhost"));
    assert!(lines.next().unwrap().ends_with(" dev"), "{hosts}");
}

fn list_and_inspect_show_machines(lab: &Lab) {
    let world = lab.root();
    let listed = world.stdout(&["ls"]);
    let mut lines = listed.lines();
    let headings: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(
        headings,
        [
            "NAME", "CREATED", "IP", "CPUS", "MEMORY", "DISK", "STATE", "DEFAULT"
        ]
    );
    let dev = lines.find(|line| line.starts_with("dev ")).unwrap();
    assert!(dev.contains("running") && dev.ends_with('*'), "{dev}");

    let dev = world.inspect("dev");
    assert_eq!(dev["id"], "dev");
    assert_eq!(dev["status"], "running");
    assert_eq!(dev["cpus"], 2);
    assert_eq!(dev["memory"], 1u64 << 30);
    assert_eq!(dev["homeMount"], "rw");
    assert_eq!(dev["userSetup"]["username"], "root");
    assert_eq!(dev["platform"]["os"], "linux");
    assert_eq!(dev["image"]["reference"], lab.image("debian-systemd:12"));
    let digest = dev["image"]["descriptor"]["digest"].as_str().unwrap();
    assert!(digest.starts_with("sha256:"), "{digest}");
    let container = dev["containerId"].as_str().unwrap();
    assert_eq!(container.len(), "dev-123456".len());
    assert!(container.starts_with("dev-"), "{container}");
    for date in ["createdDate", "startedDate"] {
        assert!(dev[date].as_str().unwrap().ends_with('Z'), "{dev}");
    }
    assert!(dev["diskSize"].as_u64().unwrap() < 200 << 20, "{dev}");
    let keys: Vec<&String> = dev.as_object().unwrap().keys().collect();
    assert!(keys.is_sorted(), "{keys:?}");
}

fn logs_contain_output_of_init_and_kernel(lab: &Lab) {
    let world = lab.root();
    assert!(world.stdout(&["logs", "dev"]).contains("Welcome to"));
    assert!(
        world
            .stdout(&["logs", "--boot", "dev"])
            .contains("Linux version")
    );
}

fn clock_has_the_hosts_time(lab: &Lab) {
    let world = lab.root();
    let now = || {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.unwrap().as_secs_f64()
    };
    let before = now();
    let inside: f64 = world.inside("dev", "date +%s.%N").trim().parse().unwrap();
    // A busy host delays the command, hence the tolerance.
    assert!(
        (before - 1.0..=now() + 1.0).contains(&inside),
        "{before} {inside} {}",
        now()
    );
}
