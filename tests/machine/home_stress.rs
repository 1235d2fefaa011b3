//! Host and machine work on the same files: for seconds, or for a long time (`make home-stress`).

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
};

use end_to_end::{Lab, Outcome, World};

crate::declare::tests![both_sides_work_on_the_same_files_for_seconds];

/// Slow tests, which only `make home-stress` runs.
pub(crate) const LONG: &[crate::declare::Test] = &[
    (
        "home_stress::both_sides_work_on_the_same_files",
        both_sides_work_on_the_same_files,
    ),
    (
        "home_stress::databases_are_written_for_a_minute",
        crate::locks::databases_are_written_for_a_minute,
    ),
];

/// Duration in seconds, unless the environment variable `STRESS_SECONDS` is set.
const SECONDS: &str = "600";

fn both_sides_work_on_the_same_files_for_seconds(lab: &Lab) {
    stress(lab.user_with_tools(), "8");
}

fn both_sides_work_on_the_same_files(lab: &Lab) {
    let seconds = std::env::var("STRESS_SECONDS").unwrap_or_else(|_| SECONDS.to_owned());
    for world in lab.with_tools() {
        stress(world, &seconds);
    }
}

fn stress(world: &World, seconds: &str) {
    let directory = world.home().join(format!("stress-{seconds}"));
    let on_host = |line: &str| {
        let mut command = world.command(Path::new("/bin/sh"));
        command.arg("-c");
        command.arg(format!("cd {} && {line}", directory.display()));
        command
    };
    let in_machine = |line: &str| {
        let line = format!("cd {} && {line}", directory.display());
        world.machine(&["run", "-n", "dev", &line])
    };
    let mkdir = world.command(Path::new("mkdir")).arg(&directory).status();
    assert!(mkdir.unwrap().success());
    let prepare = "mkdir common && touch log && git init -q -b main repository && git -C repository -c user.name=a -c user.email=a@b commit -q --allow-empty -m first";
    stdout(on_host(prepare));
    for (name, script) in [
        ("stress.py", include_str!("stress.py")),
        ("locker.py", include_str!("locker.py")),
    ] {
        fs::write(directory.join(name), script).unwrap();
    }
    let rows = seconds.parse::<u32>().unwrap();
    let work = |name: &str| format!("exec python3 stress.py {name} {seconds}");
    let add = format!("exec python3 locker.py add DELETE database {rows}");
    let add_logged = format!("exec python3 locker.py add WAL logged {rows}");
    let all = [
        on_host(&work("host")),
        in_machine(&work("machine")),
        in_machine(&work("machine2")),
        on_host(&add),
        in_machine(&add),
        on_host(&add_logged),
        in_machine(&add_logged),
    ];
    let running: Vec<Child> = all
        .into_iter()
        .map(|mut command| command.stdout(Stdio::piped()).spawn().unwrap())
        .collect();
    for child in running {
        let outcome = Outcome::from(child.wait_with_output().unwrap());
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
    }
    for database in ["database", "logged"] {
        let count = format!("python3 locker.py count {database}");
        let expected = format!("{0} {0} ok\n", 2 * rows);
        assert_eq!(stdout(in_machine(&count)), expected);
        assert_eq!(stdout(on_host(&count)), expected);
    }
    let check = "git -C repository fsck --full --strict";
    stdout(on_host(check));
    stdout(in_machine(check));
    let list = "find . -path ./repository/.git -prune -o -type f -exec sha256sum {} + | sort -k 2; find . -printf '%p %y %s %m %n %T@\\n' | sort";
    assert_eq!(stdout(on_host(list)), stdout(in_machine(list)));
}

fn stdout(mut command: Command) -> String {
    let outcome = Outcome::from(command.output().unwrap());
    assert_eq!(outcome.code, Some(0), "{command:?}: {outcome:?}");
    outcome.stdout
}
