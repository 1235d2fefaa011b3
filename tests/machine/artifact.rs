//! Machine settings that an image's author has attached to the image.

use end_to_end::{Author, Lab, World};

crate::tests![
    a_script_and_a_shell_make_the_user,
    a_shell_alone_is_the_built_in_users,
    a_script_that_fails_leaves_nothing,
    a_script_that_failed_is_run_again_at_the_next_boot,
    the_images_own_script_wins,
    settings_of_another_version,
];

const CONFIG: &str = "application/vnd.apple.container.machine.config.v1+json";
const SCRIPT: &str = "application/vnd.apple.container.machine.setup.v1+sh";
const ASH: (&str, &str) = (CONFIG, r#"{"schemaVersion": 1, "shell": "/bin/ash"}"#);

/// Without a first line that says what runs it.
const MAKE_USER: &str = r#"
echo "$CONTAINER_USER:x:$CONTAINER_UID:$CONTAINER_GID::$CONTAINER_HOME:$CONTAINER_SHELL" >>/etc/passwd
env | grep ^CONTAINER_ | sort >>/etc/set-up
id -u >>/etc/set-up
"#;

fn a_script_and_a_shell_make_the_user(lab: &Lab) {
    let world = World::of_user();
    let author = Author::of(&lab.image("busybox:1"));
    author.attach(&[(SCRIPT, MAKE_USER), ASH]);
    let image = author.image();
    world.create(&image, "one", &[]);
    is_set_up_by_script(&world, "one");
    world.stdout(&["stop", "one"]);
    is_set_up_by_script(&world, "one");
    world.stdout(&["stop", "one"]);
    world.check_disk("one");

    author.leave();
    world.create(&image, "two", &[]);
    is_set_up_by_script(&world, "two");
}

fn is_set_up_by_script(world: &World, machine: &str) {
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
        "it ran once, as root"
    );
    let left = world.inside(
        machine,
        "ls -d /run/*setup* /etc/sudoers.d 2>/dev/null || true",
    );
    assert_eq!(left, "", "nothing of it is left, and nothing else set up");
}

fn a_shell_alone_is_the_built_in_users(lab: &Lab) {
    let world = World::of_user();
    let author = Author::of(&lab.image("busybox:1"));
    author.attach(&[ASH]);
    world.create(&author.image(), "dev", &[]);
    let name = &world.user().unwrap().name;
    assert_eq!(
        world.inside("dev", "whoami; echo $SHELL"),
        format!("{name}\n/bin/ash\n")
    );
    let root = ["run", "-n", "dev", "--root", "ls /etc/sudoers.d"];
    assert_eq!(world.stdout(&root).trim(), name.replace('.', "_"));

    author.attach(&[(CONFIG, r#"{"schemaVersion": 1, "shell": "/bin/no-shell"}"#)]);
    let error = world.error(&["create", &author.image(), "--name", "other"]);
    assert!(error.contains("/bin/no-shell"), "{error}");
    assert_eq!(world.bundles(), ["dev"]);
}

fn a_script_that_fails_leaves_nothing(lab: &Lab) {
    let world = World::of_user();
    let author = Author::of(&lab.image("busybox:1"));
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

fn a_script_that_failed_is_run_again_at_the_next_boot(lab: &Lab) {
    let world = World::of_user();
    let author = Author::of(&lab.image("busybox:1"));
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

fn the_images_own_script_wins(lab: &Lab) {
    let world = World::of_user();
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

fn settings_of_another_version(lab: &Lab) {
    let world = World::of_user();
    let author = Author::of(&lab.image("busybox:1"));
    author.attach(&[(CONFIG, r#"{"schemaVersion": 2}"#)]);
    let error = world.error(&["create", &author.image(), "--name", "dev", "--no-boot"]);
    assert!(error.contains("schema version 2"), "{error}");
    assert_eq!(world.bundles(), [""; 0]);
}
