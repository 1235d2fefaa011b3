//! The login session of the machine's user.

use end_to_end::{Lab, World, debian_kernel, eventually, our_kernel};

crate::declare::tests![
    user_has_a_session_from_the_first_command_on,
    session_is_opened_once_logind_works,
    machine_without_logind_runs_commands_without_a_session,
];

fn user_has_a_session_from_the_first_command_on(lab: &Lab) {
    let kernels = [debian_kernel(), our_kernel().display().to_string()];
    for (world, kernel) in [World::for_user(), World::for_root()].iter().zip(kernels) {
        let uid = world.user().map_or(0, |user| user.uid);
        let image = lab.image("debian-systemd:12");
        world.create(&image, "dev", &["--no-boot", "--kernel", &kernel]);
        // The first command, and by a script, which no parser of command lines sees.
        let first = "printf 'systemctl --user is-active default.target basic.target\\n' > /tmp/s; \
                     sh /tmp/s; systemd-run --user --wait --quiet true && echo ran";
        let printed = world.inside("dev", first);
        assert!(printed.ends_with("active\nran\n"), "{printed}");
        let environment = world.inside(
            "dev",
            "echo $XDG_RUNTIME_DIR $DBUS_SESSION_BUS_ADDRESS; env",
        );
        let expected = format!("/run/user/{uid} unix:path=/run/user/{uid}/bus\n");
        assert!(environment.starts_with(&expected), "{environment}");
        assert!(environment.contains("\nXDG_SESSION_ID="), "{environment}");

        let sessions = world.inside("dev", "loginctl list-sessions --no-legend");
        assert!(sessions.contains(&format!(" {uid} ")), "{sessions}");
        // Without an argument, the caller's session is shown.
        let own = world.inside(
            "dev",
            "loginctl show-session $XDG_SESSION_ID -p User -p State",
        );
        assert_eq!(own, format!("User={uid}\nState=active\n"));
        let cgroup = world.inside("dev", "cat /proc/self/cgroup");
        assert!(
            cgroup.contains(&format!("/user.slice/user-{uid}.slice/session-")),
            "{cgroup}"
        );

        // A service outlives the command that started it, and its user's last command.
        world.inside("dev", "systemd-run --user --quiet --unit=kept sleep 1000");
        let as_root = |line: &str| world.stdout(&["run", "-n", "dev", "--root", line]);
        let terminate =
            "loginctl terminate-session $(loginctl list-sessions --no-legend | awk '{print $1}')";
        // A command of the machine's own user ends with the session, not before the signal.
        let (terminate, expected) = if uid == 0 {
            (format!("{terminate}; sleep 1000"), 143)
        } else {
            (terminate.to_owned(), 0)
        };
        let terminated = world.run(&["run", "-n", "dev", "--root", &terminate]);
        assert_eq!(terminated.code, Some(expected), "{terminated:?}");
        let user = world.user().map_or("root", |user| &user.name);
        let linger = as_root(&format!("loginctl show-user {user} -p Linger"));
        assert_eq!(linger, "Linger=yes\n");
        assert_eq!(
            world.inside("dev", "systemctl --user is-active kept"),
            "active\n"
        );
        let again = world.inside("dev", "loginctl show-session $XDG_SESSION_ID -p State");
        assert_eq!(again, "State=active\n");
    }
}

fn session_is_opened_once_logind_works(lab: &Lab) {
    let world = World::for_user();
    world.create(&lab.image("debian-systemd:12"), "dev", &["--no-boot"]);
    let as_root = |line: &str| drop(world.stdout(&["run", "-n", "dev", "--root", line]));
    let session = || world.inside("dev", "echo $XDG_SESSION_ID");
    assert_ne!(session(), "\n");
    let units = "systemd-logind.service dbus-org.freedesktop.login1.service";
    as_root(&format!(
        "systemctl mask --runtime --now {units}; pkill -f container-session"
    ));
    assert_eq!(session(), "\n");
    as_root(&format!(
        "systemctl unmask --runtime {units} && systemctl start systemd-logind"
    ));
    eventually("commands have a session again", || session() != "\n");
}

fn machine_without_logind_runs_commands_without_a_session(lab: &Lab) {
    let world = World::for_user();
    world.create(&lab.image("debian-systemd:12"), "dev", &[]);
    let masked = "sudo systemctl mask -q systemd-logind dbus-org.freedesktop.login1.service";
    world.inside("dev", masked);
    world.stdout(&["restart", "dev"]);
    let outcome = world.run(&[
        "run",
        "-n",
        "dev",
        "echo $XDG_RUNTIME_DIR $XDG_SESSION_ID; id -u",
    ]);
    let uid = world.user().unwrap().uid;
    assert_eq!(
        outcome.stdout,
        format!("/run/user/{uid}\n{uid}\n"),
        "{outcome:?}"
    );
    assert_eq!(outcome.stderr, "", "{outcome:?}");
}
