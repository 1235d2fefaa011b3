//! Machines with programs for another architecture than the host's.

use end_to_end::{Lab, World};

crate::declare::tests![
    arm64_machine_works_like_a_native_one,
    unsupported_platforms_are_refused_before_a_download,
];

fn arm64_machine_works_like_a_native_one(lab: &Lab) {
    let world = World::for_user();
    let image = lab.image("debian-arm64:12");
    let error = world.error(&["create", &image, "--name", "native", "--no-boot"]);
    assert!(
        error.contains("platform linux/amd64 not found in the image, only linux/arm64"),
        "{error}"
    );
    world.create(&image, "arm", &["--platform", "linux/arm64"]);
    assert_eq!(world.inside("arm", "uname -m"), "aarch64\n");
    let name = &world.user().unwrap().name;
    let home = world.home().display().to_string();
    let line = "whoami; pwd; sudo id -u";
    let expected = format!("{name}\n{home}\n0\n");
    assert_eq!(world.inside("arm", line), expected);
    assert_eq!(world.run(&["run", "-n", "arm", "exit 42"]).code, Some(42));
    world.inside("arm", "echo kept | sudo tee /root/kept > ~/shared");
    world.stdout(&["stop", "arm"]);
    world.check_disk("arm");
    assert_eq!(
        world.inside("arm", "sudo cat /root/kept ~/shared"),
        "kept\nkept\n"
    );
    let platform = &world.inspect("arm")["platform"];
    assert_eq!(
        (&platform["os"], &platform["architecture"]),
        (&"linux".into(), &"arm64".into())
    );
}

fn unsupported_platforms_are_refused_before_a_download(_: &Lab) {
    let world = World::for_root();
    let refused = |platform| {
        world.error(&[
            "create",
            "127.0.0.1:1/x",
            "--name",
            "x",
            "--platform",
            platform,
        ])
    };
    let error = refused("linux/mips");
    assert!(
        error.contains("architecture mips is not supported") && error.contains("arm64"),
        "{error}"
    );
    assert!(
        refused("windows/amd64").contains("windows/amd64"),
        "{error}"
    );
    assert!(
        !refused("linux/386").contains("is not supported"),
        "{error}"
    );
}
