//! Images with other inits than systemd.

use end_to_end::{Lab, World};

crate::tests![busybox_init, sysvinit];

fn busybox_init(lab: &Lab) {
    let world = World::of_user();
    let user = world.user().unwrap();
    world.create(&lab.image("busybox:1"), "tiny", &[]);
    assert_eq!(
        world.inside("tiny", "id -un; pwd"),
        format!("{}\n{}\n", user.name, world.home().display())
    );
    assert_eq!(world.inside("tiny", "cat /proc/1/comm"), "init\n");
    eventually_logged(&world, "the machine starts");
    world.stdout(&["stop", "tiny"]);
    assert!(
        world
            .stdout(&["logs", "tiny"])
            .contains("the machine stops"),
        "the stop was in order"
    );
    world.check_disk("tiny");
}

fn sysvinit(lab: &Lab) {
    let world = World::of_root();
    world.create(&lab.image("debian-sysvinit:12"), "classic", &[]);
    assert_eq!(
        world.inside("classic", "cat /proc/1/comm; id -un"),
        "init\nroot\n"
    );
    world.inside("classic", "echo kept > /kept");
    world.stdout(&["stop", "classic"]);
    let boot_log = world.stdout(&["logs", "--boot", "classic"]);
    assert!(
        !boot_log.contains("is killed"),
        "the stop was in order: {boot_log}"
    );
    world.check_disk("classic");
    assert_eq!(world.inside("classic", "cat /kept"), "kept\n");
}

fn eventually_logged(world: &World, words: &str) {
    end_to_end::eventually(words, || world.stdout(&["logs", "tiny"]).contains(words));
}
