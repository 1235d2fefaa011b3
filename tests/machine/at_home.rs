//! The shared home: files are the user's own on both sides, and behave as at home.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
};

use end_to_end::{Lab, World};

crate::tests![
    what_a_user_writes_is_the_users,
    what_root_writes_in_the_guest_is_the_users_too,
    permissions_times_links_and_renames_are_kept,
    what_the_host_writes_is_seen,
    first_boot_leaves_the_home_alone,
    root_keeps_owners_as_they_are,
    a_read_only_home_cannot_be_written,
    without_the_home_there_is_one_of_the_machines_own,
];

fn what_a_user_writes_is_the_users(lab: &Lab) {
    let world = lab.user();
    let user = world.user().unwrap();
    world.inside(
        "dev",
        "mkdir -p made && echo x > made/file && touch made/empty",
    );
    for path in ["made", "made/file", "made/empty"] {
        let about = fs::metadata(world.home().join(path)).unwrap();
        assert_eq!((about.uid(), about.gid()), (user.uid, user.gid), "{path}");
    }
    assert_eq!(
        world.inside("dev", "stat -c '%u %g' made/file"),
        format!("{} {}\n", user.uid, user.gid)
    );
}

fn what_root_writes_in_the_guest_is_the_users_too(lab: &Lab) {
    let world = lab.user();
    let user = world.user().unwrap();
    world.inside(
        "dev",
        "sudo sh -c 'echo y > by-root; mkdir -p dir-by-root; echo z > dir-by-root/f'",
    );
    for path in ["by-root", "dir-by-root", "dir-by-root/f"] {
        let about = fs::metadata(world.home().join(path)).unwrap();
        assert_eq!((about.uid(), about.gid()), (user.uid, user.gid), "{path}");
    }
    assert_eq!(
        world.inside("dev", "sudo cat by-root; cat dir-by-root/f"),
        "y\nz\n"
    );
}

fn permissions_times_links_and_renames_are_kept(lab: &Lab) {
    let world = lab.user();
    world.inside(
        "dev",
        "rm -rf kept && mkdir kept && cd kept && echo a > a && chmod 640 a && touch -d @1000000000 a \
         && ln a hard && ln -s a soft && mkdir d && chmod 2750 d && mv d e && echo b > b && mv b c \
         && echo over > c2 && mv c2 c",
    );
    let kept = world.home().join("kept");
    let about = |name: &str| fs::symlink_metadata(kept.join(name)).unwrap();
    assert_eq!(about("a").permissions().mode() & 0o7777, 0o640);
    assert_eq!(about("a").mtime(), 1_000_000_000);
    assert_eq!(about("a").nlink(), 2);
    assert_eq!(about("hard").ino(), about("a").ino());
    assert_eq!(
        fs::read_link(kept.join("soft")).unwrap().to_str(),
        Some("a")
    );
    assert_eq!(about("e").permissions().mode() & 0o7777, 0o2750);
    assert!(!kept.join("d").exists() && !kept.join("b").exists());
    assert_eq!(fs::read_to_string(kept.join("c")).unwrap(), "over\n");
    assert_eq!(
        world.inside("dev", "stat -c '%a %Y %h' kept/a; readlink kept/soft"),
        "640 1000000000 2\na\n"
    );
}

fn what_the_host_writes_is_seen(lab: &Lab) {
    let world = lab.root();
    fs::write(world.home().join("from-host"), "one").unwrap();
    let file = world.home().join("from-host").display().to_string();
    assert_eq!(world.inside("dev", &format!("cat {file}")), "one");
    fs::write(world.home().join("from-host"), "two!").unwrap();
    end_to_end::eventually("the new contents are seen", || {
        world.inside("dev", &format!("cat {file}")) == "two!"
    });
}

fn first_boot_leaves_the_home_alone(lab: &Lab) {
    let world = lab.user();
    let user = world.user().unwrap();
    let home = fs::metadata(world.home()).unwrap();
    assert_eq!((home.uid(), home.gid()), (user.uid, user.gid));
    // As useradd made it from the host's skeleton, with the host's times.
    for entry in fs::read_dir("/etc/skel").unwrap() {
        let name = entry.unwrap().file_name();
        let there = fs::metadata(world.home().join(&name)).unwrap();
        let skeleton = fs::metadata(std::path::Path::new("/etc/skel").join(&name)).unwrap();
        assert_eq!(there.len(), skeleton.len(), "{name:?}");
        assert_eq!(there.uid(), user.uid, "{name:?}");
    }
}

fn root_keeps_owners_as_they_are(lab: &Lab) {
    let world = lab.root();
    let file = world.home().join("owned").display().to_string();
    world.inside("dev", &format!("echo x > {file} && chown 1234:5678 {file}"));
    let about = fs::metadata(&file).unwrap();
    assert_eq!((about.uid(), about.gid()), (1234, 5678));
}

fn a_read_only_home_cannot_be_written(lab: &Lab) {
    let world = World::of_user();
    let user = world.user().unwrap();
    fs::write(world.home().join("file"), "mine").unwrap();
    chown(world.home().join("file"), Some(user.uid), Some(user.gid)).unwrap();
    world.create(&lab.image("busybox:1"), "tiny", &["--home-mount", "ro"]);
    assert_eq!(world.inside("tiny", "cat file"), "mine");
    let home = world.home().display().to_string();
    for line in [
        "echo x > file",
        "rm -f file",
        "mkdir new",
        "mv file other",
        "chmod 777 file",
    ] {
        let user = world.run(&["run", "-n", "tiny", line]);
        assert_ne!(user.code, Some(0), "{line}: {user:?}");
        // Not even after what root may do to a mount.
        let as_root = format!("mount -o remount,rw {home}; cd {home}; {line}");
        let root = world.run(&["run", "-n", "tiny", "--root", &as_root]);
        assert_ne!(root.code, Some(0), "{line}: {root:?}");
    }
    assert_eq!(
        fs::read_to_string(world.home().join("file")).unwrap(),
        "mine"
    );
    assert!(!world.home().join("new").exists());
    world.stdout(&["set", "-n", "tiny", "home-mount=rw"]);
    world.stdout(&["restart", "tiny"]);
    world.inside("tiny", "echo ours > file");
    assert_eq!(
        fs::read_to_string(world.home().join("file")).unwrap(),
        "ours\n"
    );
}

fn without_the_home_there_is_one_of_the_machines_own(lab: &Lab) {
    let world = World::of_user();
    let user = world.user().unwrap();
    fs::write(world.home().join("file"), "mine").unwrap();
    world.create(
        &lab.image("debian-plain:12"),
        "alone",
        &["--home-mount", "none"],
    );
    let shown = world.inside("alone", "pwd; ls -A; stat -c '%U %a' . .bashrc");
    let expected = format!(
        "{}\n.bash_logout\n.bashrc\n.profile\n{} 755\n{} 644\n",
        world.home().display(),
        user.name,
        user.name
    );
    assert_eq!(shown, expected, "made from the image's skeleton");
    world.inside("alone", "echo kept > kept");
    world.stdout(&["restart", "alone"]);
    assert_eq!(world.inside("alone", "cat kept"), "kept\n");
    assert!(!world.home().join("kept").exists());
    world.stdout(&["set", "-n", "alone", "home-mount=rw"]);
    world.stdout(&["restart", "alone"]);
    assert_eq!(world.inside("alone", "cat file"), "mine");

    world.create(&lab.image("busybox:1"), "shared", &[]);
    world.stdout(&["set", "-n", "shared", "home-mount=none"]);
    world.stdout(&["restart", "shared"]);
    world.inside("shared", "echo kept > kept && test ! -e file");
}
