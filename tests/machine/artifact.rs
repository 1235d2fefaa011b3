//! Machine settings that the author of an image has attached to it.

use end_to_end::{Author, Lab, World};

crate::declare::tests![
    script_and_shell_set_up_the_user,
    shell_without_script_is_used_by_the_built_in_set_up,
    failed_script_leaves_no_machine,
    failed_script_is_repeated_at_the_next_boot,
    script_in_the_image_takes_precedence,
    settings_of_another_version_are_refused,
];

const CONFIG: &str = "application/vnd.apple.container.machine.config.v1+json";
const SCRIPT: &str = "application/vnd.apple.container.machine.setup.v1+sh";
const ASH: (&str, &str) = (CONFIG, r#"{"schemaVersion": 1, "shell": "/bin/ash"}"#);

/// Has no `#!` line: such a script is run by `/bin/sh`.
const MAKE_USER: &str = r#"
echo "$CONTAINER_USER:x:$CONTAINER_UID:$CONTAINER_GID::$CONTAINER_HOME:$CONTAINER_SHELL" >>/etc/passwd
env | grep ^CONTAINER_ | sort >>/etc/set-up
id -u >>/etc/set-up
"#;

fn script_and_shell_set_up_the_user(lab: &Lab) {
    let world = World::for_user();
    let author = Author::new(&lab.image("busybox:1"));
    author.attach(&[(SCRIPT, MAKE_USER), ASH]);
    let image = author.image();
    world.create(&image, "one", &[]);
    assert_set_up_by_script(&world, "one");
    world.stdout(&["stop", "one"]);
    assert_set_up_by_script(&world, "one");
    world.stdout(&["stop", "one"]);
    world.check_disk("one");

    author.close_registry();
    world.create(&image, "two", &[]);
    assert_set_up_by_script(&world, "two");
}

fn assert_set_up_by_script(world: &World, machine: &str) {
    let user = world.user().unwrap();
    let (name, home) = (&user.name, world.home().display().to_string());
    assert_eq!(
        world.inside(machine, "whoami; echo $SHELL"),
        format!("{name}\n/bin/ash\n")
    );
    assert_eq!(
        world.inside(machine, "cat /etc/set-up"),
        format!(
            "CONTAINER_GID={}\nCONTAINER_HOME={home}\nCONTAINER_MACHINE_ID={machine}\n\
             CONTAINER_SHELL=/bin/ash\nCONTAINER_UID={}\nCONTAINER_USER={name}\n0\n",
            user.gid, user.uid
        ),
        "the script runs once, as root"
    );
    let left = world.inside(
        machine,
        "ls -d /run/*setup* /etc/sudoers.d 2>/dev/null || true",
    );
    assert_eq!(
        left, "",
        "the script leaves no files, and replaces the built-in set-up"
    );
}

fn shell_without_script_is_used_by_the_built_in_set_up(lab: &Lab) {
    let world = World::for_user();
    let author = Author::new(&lab.image("busybox:1"));
    author.attach(&[ASH]);
    world.create(&author.image(), "dev", &[]);
    let name = &world.user().unwrap().name;
    assert_eq!(
        world.inside("dev", "whoami; echo $SHELL"),
        format!("{name}\n/bin/ash\n")
    );
    let root = ["run", "-n", "dev", "--root", "ls /etc/sudoers.d"];
    assert_eq!(world.stdout(&root).trim(), "container-user");

    author.attach(&[(CONFIG, r#"{"schemaVersion": 1, "shell": "/bin/no-shell"}"#)]);
    let error = world.error(&["create", &author.image(), "--name", "other"]);
    assert!(error.contains("/bin/no-shell"), "{error}");
    assert_eq!(world.bundles(), ["dev"]);
}

fn failed_script_leaves_no_machine(lab: &Lab) {
    let world = World::for_user();
    let author = Author::new(&lab.image("busybox:1"));
    for (script, said) in [
        ("#!/bin/sh -e\necho no zsh >&2\nfalse\n", "no zsh"),
        ("#!/bin/no-such-shell\n", "first line"),
    ] {
        author.attach(&[(SCRIPT, script)]);
        let outcome = world.run(&["create", &author.image(), "--name", "dev"]);
        let error = outcome.error();
        assert!(error.contains("set-up script"), "{outcome:?}");
        assert!(outcome.stderr.contains(said), "{outcome:?}");
        assert_eq!(world.bundles(), [""; 0]);
        assert!(world.engines().is_empty());
    }
}

fn failed_script_is_repeated_at_the_next_boot(lab: &Lab) {
    let world = World::for_user();
    let author = Author::new(&lab.image("busybox:1"));
    let fails_once = "test -e /etc/tried || { touch /etc/tried; echo not yet; exit 3; }";
    let script = format!("#!/bin/sh\n{fails_once}\n{MAKE_USER}");
    author.attach(&[(SCRIPT, &script)]);
    world.create(&author.image(), "dev", &["--no-boot"]);
    let outcome = world.run(&["run", "-n", "dev", "whoami"]);
    assert!(outcome.error().contains("set-up script"), "{outcome:?}");
    assert!(outcome.stderr.contains("not yet"), "{outcome:?}");
    assert!(world.is_stopped("dev"));
    assert!(world.engines().is_empty());
    let name = &world.user().unwrap().name;
    assert_eq!(world.inside("dev", "whoami"), format!("{name}\n"));
}

fn script_in_the_image_takes_precedence(lab: &Lab) {
    let world = World::for_user();
    let own = format!("#!/bin/sh\n{MAKE_USER}\necho own >/etc/who\n");
    let file = Some(("etc/machine/create-user.sh", own.as_str()));
    let author = Author::with_file(&lab.image("busybox:1"), file);
    author.attach(&[ASH, (SCRIPT, "echo settings >/etc/who; exit 1")]);
    world.create(&author.image(), "dev", &[]);
    assert_eq!(
        world.inside("dev", "cat /etc/who; echo $SHELL"),
        "own\n/bin/ash\n"
    );
}

fn settings_of_another_version_are_refused(lab: &Lab) {
    let world = World::for_user();
    let author = Author::new(&lab.image("busybox:1"));
    author.attach(&[(CONFIG, r#"{"schemaVersion": 2}"#)]);
    let error = world.error(&["create", &author.image(), "--name", "dev", "--no-boot"]);
    assert!(error.contains("schema version 2"), "{error}");
    assert_eq!(world.bundles(), [""; 0]);
}
