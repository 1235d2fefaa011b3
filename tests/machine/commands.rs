//! Commands: exit codes, signals, users, environment, directories.

use std::{
    fs::Permissions,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
};

use end_to_end::{Lab, Outcome, eventually};
use rustix::process::{Pid, Signal, kill_process};

crate::declare::tests![
    exit_codes_are_passed_on,
    signal_is_reported_as_exit_code_above_128,
    signal_to_the_client_is_forwarded,
    killed_client_hangs_up_its_command,
    third_termination_signal_ends_the_client,
    detached_command_outlives_the_client,
    command_line_is_expanded_by_the_guests_shell,
    users_and_groups_can_be_chosen,
    environment_has_only_requested_variables,
    working_directory_can_be_chosen,
    directory_that_the_machine_lacks_is_reported_once,
    concurrent_commands_have_separate_outputs,
];

fn exit_codes_are_passed_on(lab: &Lab) {
    let world = lab.root();
    for code in [0, 1, 2, 42, 126, 127, 128, 200, 255] {
        let outcome = world.run(&["run", "-n", "dev", "exit", &code.to_string()]);
        assert_eq!(outcome.code, Some(code), "{outcome:?}");
    }
    let outcome = world.run(&["run", "-n", "dev", "no-such-program"]);
    assert_eq!(outcome.code, Some(127));
    assert!(outcome.stderr.contains("no-such-program"), "{outcome:?}");
}

fn signal_is_reported_as_exit_code_above_128(lab: &Lab) {
    let world = lab.root();
    for signal in [1, 9, 15] {
        let outcome = world.run(&["run", "-n", "dev", &format!("kill -{signal} $$")]);
        assert_eq!(outcome.code, Some(128 + signal), "{outcome:?}");
    }
}

fn signal_to_the_client_is_forwarded(lab: &Lab) {
    let world = lab.root();
    let line = "trap 'echo trapped; exit 7' TERM; touch /tmp/signal; while :; do sleep 0.1; done";
    let mut client = world.machine(&["run", "-n", "dev", line]);
    let client = client.stdout(Stdio::piped()).spawn().unwrap();
    let is_ready = || world.run(&["run", "-n", "dev", "test -e /tmp/signal"]).code == Some(0);
    eventually("the command is running", is_ready);
    kill_process(Pid::from_child(&client), Signal::TERM).unwrap();
    let output = client.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(output.stdout, b"trapped\n");
}

fn killed_client_hangs_up_its_command(lab: &Lab) {
    let world = lab.root();
    let mut client = world.machine(&["run", "-n", "dev", "exec sleep 98761"]);
    let mut client = client.spawn().unwrap();
    let runs = || {
        world
            .run(&["run", "-n", "dev", "pgrep -x -f 'sleep 98761'"])
            .code
            == Some(0)
    };
    eventually("the command is running", runs);
    client.kill().unwrap();
    client.wait().unwrap();
    eventually("the command has ended", || !runs());
}

fn third_termination_signal_ends_the_client(lab: &Lab) {
    let world = lab.root();
    let line = "trap 'echo heard' TERM; echo ready; while :; do sleep 0.1; done";
    let mut client = world.machine(&["run", "-n", "dev", line]);
    let mut client = client.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(client.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    for _ in 0..2 {
        kill_process(Pid::from_child(&client), Signal::TERM).unwrap();
        assert_eq!(lines.next().unwrap().unwrap(), "heard");
        assert!(
            client.try_wait().unwrap().is_none(),
            "the client waits for the command"
        );
    }
    kill_process(Pid::from_child(&client), Signal::TERM).unwrap();
    assert_eq!(client.wait().unwrap().code(), Some(128 + 15));
    let runs = || {
        world
            .run(&["run", "-n", "dev", "pgrep -f 'echo [h]eard'"])
            .code
            == Some(0)
    };
    eventually("the command has ended", || !runs());
}

fn detached_command_outlives_the_client(lab: &Lab) {
    let world = lab.root();
    let printed = world.stdout(&["run", "-d", "-n", "dev", "sleep 98762; touch /tmp/never"]);
    assert_eq!(printed, "dev\n");
    // `run -d` returns when the shell has started, which is before its `sleep`.
    let ends = || {
        world
            .run(&["run", "-n", "dev", "pkill -x -f 'sleep 98762'"])
            .code
            == Some(0)
    };
    eventually("the command is running", ends);
}

fn command_line_is_expanded_by_the_guests_shell(lab: &Lab) {
    let world = lab.root();
    assert_eq!(
        world.stdout(&["run", "-n", "dev", "echo", "$HOME"]),
        format!("{}\n", world.home().display())
    );
    assert_eq!(
        world.stdout(&["run", "-n", "dev", "--", "echo", "a", "|", "tr", "a", "b"]),
        "b\n"
    );
    assert_eq!(
        world.stdout(&["run", "-n", "dev", "echo", "-n", "--help"]),
        "--help"
    );
}

fn users_and_groups_can_be_chosen(lab: &Lab) {
    let world = lab.user();
    let id = |options: &[&str], line: &str| {
        let arguments = [&["run", "-n", "dev"], options, &[line]].concat();
        world.stdout(&arguments)
    };
    assert_eq!(id(&["--root", "--gid", "1000"], "id -G"), "0 1000\n");
    assert_eq!(id(&["--uid", "33"], "id -un"), "www-data\n");
    assert_eq!(id(&["-u", "daemon"], "id -un; id -gn"), "daemon\ndaemon\n");
    assert_eq!(id(&["-u", "4711:4712"], "id -u; id -g"), "4711\n4712\n");
    assert_eq!(id(&["-u", "daemon:adm"], "id -un; id -gn"), "daemon\nadm\n");
    let refused = world.run(&["run", "-n", "dev", "-u", "daemon:no-group", "true"]);
    assert!(refused.error().contains("group no-group"), "{refused:?}");
    let refused = world.run(&["run", "-n", "dev", "-u", "nobody-here", "true"]);
    assert!(refused.error().contains("nobody-here"), "{refused:?}");
}

fn environment_has_only_requested_variables(lab: &Lab) {
    let world = lab.root();
    let file = world.home().join("variables");
    std::fs::write(&file, "# a comment\n\nFROM_FILE=1 2\n").unwrap();
    let mut run = world.machine(&["run", "-n", "dev", "-e", "SAID=a=b", "-e", "HANDED_ON"]);
    run.args(["-e", "NOT_SET_HERE", "--env-file"]).arg(&file);
    run.arg("echo \"$SAID,$HANDED_ON,${NOT_SET_HERE-none},$FROM_FILE\"");
    let output = run.env("HANDED_ON", "on").output().unwrap();
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "a=b,on,none,1 2\n"
    );
    let mut path = world.machine(&["run", "-n", "dev", "echo $PATH; echo ${SECRET-unset}"]);
    let printed = path.env("SECRET", "x").output().unwrap().stdout;
    assert_eq!(
        String::from_utf8(printed).unwrap(),
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nunset\n"
    );
}

fn working_directory_can_be_chosen(lab: &Lab) {
    let world = lab.root();
    for option in ["-w", "--workdir", "--cwd"] {
        assert_eq!(
            world.stdout(&["run", "-n", "dev", option, "/var", "pwd"]),
            "/var\n"
        );
    }
    let refused = world.run(&["run", "-n", "dev", "-w", "/not/there", "pwd"]);
    assert!(refused.error().contains("/not/there"), "{refused:?}");
    assert_eq!(refused.code, Some(125));
    let real = "readlink /proc/self/cwd; cd ..; readlink /proc/self/cwd; cd ../..; ls -d machine";
    let outcome = world.run(&["run", "-n", "dev", "-w", "/var/tmp", real]);
    assert_eq!(outcome.stdout, "/var/tmp\n/var\n", "{outcome:?}");
}

fn directory_that_the_machine_lacks_is_reported_once(lab: &Lab) {
    let world = lab.user();
    let home = format!("{}\n", world.home().display());
    let outside = world.path("outside");
    std::fs::create_dir_all(&outside).unwrap();
    let mut run = world.machine(&["run", "-n", "dev", "pwd"]);
    let outcome = Outcome::from(run.current_dir(&outside).output().unwrap());
    assert_eq!((outcome.code, &outcome.stdout), (Some(0), &home));
    let notes = outcome.stderr.lines().count();
    assert_eq!(notes, 1, "{outcome:?}");
    assert!(
        outcome.stderr.contains(outside.to_str().unwrap()),
        "{outcome:?}"
    );
    let mut run = world.machine(&["run", "-n", "dev", "-w", "/tmp", "pwd"]);
    let outcome = Outcome::from(run.current_dir(&outside).output().unwrap());
    assert_eq!((&*outcome.stdout, &*outcome.stderr), ("/tmp\n", ""));

    let mut gone = Command::new("sh");
    gone.args([
        "-c",
        "mkdir gone; cd gone; rmdir ../gone; exec \"$@\"",
        "sh",
    ]);
    let run = world.machine(&["run", "-n", "dev", "pwd"]);
    gone.arg(run.get_program()).args(run.get_args()).env_clear();
    let variables = run
        .get_envs()
        .filter_map(|(name, value)| Some((name, value?)));
    let outcome = gone.envs(variables).current_dir(&outside).output();
    let outcome = Outcome::from(outcome.unwrap());
    assert_eq!(outcome.stdout, home, "{outcome:?}");
    assert!(outcome.stderr.contains("does not exist"), "{outcome:?}");

    // A directory that the user may not enter.
    let closed = world.home().join("closed");
    std::fs::create_dir_all(&closed).unwrap();
    std::fs::set_permissions(&closed, Permissions::from_mode(0o700)).unwrap();
    let mut run = world.machine(&["run", "-n", "dev", "-u", "daemon", "pwd"]);
    let outcome = Outcome::from(run.current_dir(&closed).output().unwrap());
    assert_eq!(outcome.stdout, "/usr/sbin\n", "{outcome:?}");
    assert!(outcome.stderr.contains("Permission denied"), "{outcome:?}");
}

fn concurrent_commands_have_separate_outputs(lab: &Lab) {
    let world = lab.root();
    let start = |number: usize| {
        let line = format!("for i in 1 2 3; do echo {number}; done; exit {number}");
        let mut run = world.machine(&["run", "-n", "dev", &line]);
        run.stdout(Stdio::piped()).spawn().unwrap()
    };
    let clients: Vec<_> = (0..20).map(start).collect();
    for (number, client) in clients.into_iter().enumerate() {
        let output = client.wait_with_output().unwrap();
        assert_eq!(output.status.code(), i32::try_from(number).ok());
        let expected = format!("{number}\n").repeat(3);
        assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
    }
}
