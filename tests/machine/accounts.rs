//! The machine's user: any name, any home directory, the host's groups.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
};

use end_to_end::{Lab, User, World};

crate::declare::tests![users_of_directory_services_are_at_home];

/// A name with everything that directory services put into one.
const NAME: &str = "1CORP\\Ann Lee.x@example.com";

/// One machine for several subjects, because a boot takes long.
fn users_of_directory_services_are_at_home(lab: &Lab) {
    let world = World::for_existing_user(User::of_directory_service(NAME));
    make_team_directories(&world);
    world.create(&lab.image("debian-systemd:12"), "dev", &[]);
    account_works(&world);
    home_is_that_of_the_host(&world);
    groups_of_the_host_count(&world);
    root_acts_as_before(&world);
}

fn account_works(world: &World) {
    let user = world.user().unwrap();
    let inside = |line: &str| world.inside("dev", line);
    assert_eq!(inside("id -un"), format!("{NAME}\n"));
    assert_eq!(
        inside("sudo -n id -u; sudo -n -u nobody id -un"),
        "0\nnobody\n"
    );
    assert_eq!(
        inside("sudo visudo -c > /dev/null && echo valid"),
        "valid\n"
    );
    assert_eq!(
        inside("systemctl --user is-active basic.target"),
        "active\n"
    );
    let linger = inside("loginctl show-user $(id -u) -p Linger");
    assert_eq!(linger, "Linger=yes\n");
    assert_eq!(
        inside("cat /etc/subuid /etc/subgid"),
        format!("{NAME}:100000:65536\n").repeat(2)
    );
    let other = inside("sudo su - \"$(id -un)\" -c 'id -u; echo $HOME'");
    assert_eq!(other, format!("{}\n{}\n", user.uid, world.home().display()));
}

fn home_is_that_of_the_host(world: &World) {
    let home = world.home().display().to_string();
    let shown = world.inside(
        "dev",
        "echo $HOME; pwd; getent passwd $(id -u) | cut -d: -f6",
    );
    assert_eq!(shown, format!("{home}\n").repeat(3));
    world.inside("dev", "echo mine > ~/file");
    assert_eq!(
        fs::read_to_string(world.home().join("file")).unwrap(),
        "mine\n"
    );
}

/// Directories of another owner, one of which the user may use as a member of a group.
fn make_team_directories(world: &World) {
    let user = world.user().unwrap();
    let directory = |name: &str, gid: u32, mode: u32| {
        let directory = world.home().join(name);
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("old"), "old\n").unwrap();
        for path in [directory.join("old"), directory.clone()] {
            chown(path, Some(0), Some(gid)).unwrap();
        }
        fs::set_permissions(&directory, fs::Permissions::from_mode(mode)).unwrap();
    };
    directory("team", user.groups[0], 0o2770);
    directory("closed", 0, 0o700);
}

fn groups_of_the_host_count(world: &World) {
    let user = world.user().unwrap();
    let devs = user.groups[0];
    let inside = |line: &str| world.inside("dev", line);
    let groups = inside("id -G; id -Gn | tr ' ' '\\n' | grep devs");
    assert!(groups.contains(&devs.to_string()), "{groups}");
    assert!(
        groups.ends_with(&format!("devs-{}\n", user.uid)),
        "{groups}"
    );
    assert_eq!(
        inside("cat team/old; umask 027; echo x > team/new; mkdir team/dir"),
        "old\n"
    );
    inside(&format!("echo x > given; chgrp {devs} given"));
    for (made, gid, mode) in [
        ("team/new", devs, 0o640),
        ("team/dir", devs, 0o2750),
        ("given", devs, 0o644),
    ] {
        let about = fs::metadata(world.home().join(made)).unwrap();
        assert_eq!(
            (about.uid(), about.gid(), about.mode() & 0o7777),
            (user.uid, gid, mode),
            "{made}"
        );
    }
    let refused = world.run(&["run", "-n", "dev", "ls closed"]);
    assert_ne!(refused.code, Some(0), "{refused:?}");
    // The services of the user belong to the groups too.
    let service = inside("systemd-run --user --wait --quiet --pipe cat $HOME/team/old");
    assert_eq!(service, "old\n");
}

/// Root's files in the shared home belong to the user, and root gets what the user may on the host.
fn root_acts_as_before(world: &World) {
    let user = world.user().unwrap();
    let root = |line: &str| world.run(&["run", "-n", "dev", "--root", line]);
    let home = world.home().display().to_string();
    let made = root(&format!(
        "cd {home} && echo x > by-root && chown 0:0 by-root && cat team/old"
    ));
    assert_eq!(made.stdout, "old\n", "{made:?}");
    let about = fs::metadata(world.home().join("by-root")).unwrap();
    assert_eq!((about.uid(), about.gid()), (user.uid, user.gid));
    assert_ne!(root(&format!("ls {home}/closed")).code, Some(0));
}
