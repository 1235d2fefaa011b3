//! What every machine has of its own: ids, keys, the time zone.

use std::fs;

use end_to_end::{Lab, World};

crate::declare::tests![
    machines_of_one_image_have_different_ids_and_keys,
    host_key_of_an_image_without_ssh_is_removed,
    time_zone_is_set_at_the_first_boot,
];

/// Prints everything that must differ.
const IDENTITY: &str = "cat /etc/machine-id /var/lib/dbus/machine-id; \
                        cat /etc/ssh/ssh_host_ed25519_key.pub /etc/ssh/ssh_host_ecdsa_key.pub";

fn machines_of_one_image_have_different_ids_and_keys(lab: &Lab) {
    let world = World::for_root();
    world.create(&lab.image("debian-systemd:12"), "one", &[]);
    world.inside("one", "systemctl is-system-running --wait");
    let bake = "rm -f /var/lib/dbus/machine-id; cp /etc/machine-id /var/lib/dbus/machine-id; \
                rm -f /etc/ssh/ssh_host_rsa_key*; rm -r /etc/systemd/system/ssh.service.d; \
                echo seed > /var/lib/systemd/random-seed";
    world.inside("one", bake);
    let one = world.inside("one", IDENTITY);
    world.stdout(&["commit", "one", "local/baked"]);
    world.create("local/baked", "two", &[]);
    let two = world.inside("two", IDENTITY);
    for (one, two) in one.lines().zip(two.lines()) {
        assert_ne!(one, two);
    }
    assert_eq!(one.lines().count(), two.lines().count(), "{two}");
    let lines: Vec<&str> = two.lines().collect();
    assert_eq!(lines[0], lines[1], "D-Bus has the same id");
    assert_eq!(lines[0].len(), 32);
    // The server has its keys although the image does not generate any.
    let check = "systemctl is-active ssh; test \"$(cat /var/lib/systemd/random-seed)\" != seed";
    assert_eq!(world.inside("two", check), "active\n");

    world.stdout(&["stop", "two"]);
    world.stdout(&["rename", "two", "three"]);
    assert_eq!(
        world.inside("three", IDENTITY),
        two,
        "later boots keep them"
    );
}

fn host_key_of_an_image_without_ssh_is_removed(lab: &Lab) {
    let world = World::for_root();
    world.create(&lab.image("busybox-plain:1"), "one", &[]);
    let bake = "mkdir -p /etc/ssh /var/lib/urandom; echo key > /etc/ssh/ssh_host_rsa_key; \
                echo seed > /var/lib/urandom/random-seed";
    world.inside("one", bake);
    world.stdout(&["commit", "one", "local/baked"]);
    world.create("local/baked", "two", &[]);
    let shown = world.inside("two", "ls /etc/ssh /var/lib/urandom");
    assert!(!shown.contains("key") && !shown.contains("seed"), "{shown}");
}

fn time_zone_is_set_at_the_first_boot(lab: &Lab) {
    let world = World::for_root();
    let zone = |setting: &str| world.configure(&format!("[machine]\ntime-zone = \"{setting}\"\n"));
    // An image without a time zone database gets the host's rules.
    zone("Asia/Tokyo");
    world.create(&lab.image("busybox-plain:1"), "tiny", &[]);
    let date = "date -d @0 +%H%Z; test -L /etc/localtime || echo file";
    assert_eq!(world.inside("tiny", date), "09JST\nfile\n");
    // Later boots keep what is set in the machine.
    zone("Europe/Berlin");
    world.stdout(&["restart", "tiny"]);
    assert_eq!(world.inside("tiny", date), "09JST\nfile\n");

    world.create(&lab.image("debian-plain:12"), "plain", &[]);
    let shown = world.inside(
        "plain",
        "date -d @0 +%H%Z; readlink /etc/localtime; cat /etc/timezone",
    );
    assert_eq!(
        shown,
        "01CET\n../usr/share/zoneinfo/Europe/Berlin\nEurope/Berlin\n"
    );
    zone("nowhere else");
    let error = world.error(&["create", "local/nothing"]);
    assert!(
        error.contains("nowhere else") && error.contains("Europe/Berlin"),
        "{error}"
    );

    world.configure("");
    world.create(&lab.image("busybox-plain:1"), "host", &[]);
    let host = fs::read("/etc/localtime").unwrap_or_default();
    let rules = world.inside(
        "host",
        "test ! -e /etc/localtime || md5sum < /etc/localtime",
    );
    assert_eq!(rules.is_empty(), host.is_empty(), "{rules}");
}
