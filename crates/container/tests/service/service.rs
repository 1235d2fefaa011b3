//! Start, replacement and end of the service.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    process::{Child, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::world::World;

#[test]
fn clients_that_start_at_once_share_one_service() {
    let world = World::new();
    world.put_machine("dev");
    let start = |_| -> Child {
        let mut command = world.command(&["ls", "-q"]);
        command.stdout(Stdio::piped()).spawn().unwrap()
    };
    let clients: Vec<Child> = (0..6).map(start).collect();
    let mut services = Vec::new();
    for client in clients {
        let output = client.wait_with_output().unwrap();
        assert_eq!(output.stdout, b"dev\n");
        services.push(world.service().unwrap());
    }
    services.dedup();
    assert_eq!(services.len(), 1);
}

#[test]
fn only_its_user_can_access_it() {
    let world = World::new();
    world.stdout(&["ls"]);
    let mode = |path: &str| fs::metadata(world.path(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("runtime/container"), 0o700);
    assert_eq!(mode("runtime/container/service.sock"), 0o600);
    assert_eq!(mode("data/container"), 0o700);
}

#[test]
fn a_killed_service_is_replaced_and_unfinished_machines_are_removed() {
    let world = World::new();
    world.put_machine("dev");
    world.stdout(&["ls"]);
    let killed = world.service().unwrap();
    kill_process(Pid::from_raw(killed).unwrap(), Signal::KILL).unwrap();
    fs::create_dir(world.path("data/container/machines/.new-half-1")).unwrap();
    assert_eq!(world.stdout(&["ls", "-q"]), "dev\n");
    assert_ne!(world.service().unwrap(), killed);
    assert_eq!(world.entries(), ["dev"]);
}

#[test]
fn a_service_of_another_build_is_replaced() {
    let world = World::new();
    world.put_machine("dev");
    world.stdout(&["ls"]);
    let before = world.service().unwrap();
    let another = world.path("another-build");
    // By a process of its own: a child that another test forks while this one has the copy open for
    // writing would make its start fail with "text file busy".
    let mut copy = std::process::Command::new("cp");
    let copied = copy
        .arg(env!("CARGO_BIN_EXE_container"))
        .arg(&another)
        .status();
    assert!(copied.unwrap().success());
    let output = world.command_of(&another, &["ls", "-q"]).output().unwrap();
    assert_eq!(output.stdout, b"dev\n");
    assert_ne!(world.service().unwrap(), before);
    assert_eq!(world.stdout(&["ls", "-q"]), "dev\n");
}

#[test]
fn the_service_inherits_no_descriptors() {
    let world = World::new();
    let lock = fs::File::create(world.path("lock")).unwrap();
    let mut script = std::process::Command::new("sh");
    let client = world.command(&["ls"]);
    script
        .arg("-c")
        .arg("exec 9>\"$1\"; flock 9; shift; \"$@\" 2>&1 | cat")
        .args(["sh".as_ref(), world.path("lock").as_os_str()])
        .arg(client.get_program())
        .args(client.get_args())
        .envs(
            client
                .get_envs()
                .filter_map(|(key, value)| Some((key, value?))),
        );
    // The script ends once no process has the pipe open.
    assert!(script.output().unwrap().status.success());
    assert!(lock.try_lock().is_ok());
    assert!(world.service().is_some());
}
