//! The shared home: owners, permissions, times, and the three ways to share it.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
};

use end_to_end::{Lab, World};

crate::declare::tests![
    files_of_the_user_belong_to_the_user,
    files_of_root_in_the_guest_belong_to_the_user,
    permissions_times_links_and_renames_are_kept,
    changes_on_the_host_are_visible,
    first_boot_does_not_change_the_home,
    root_may_change_owners,
    read_only_home_cannot_be_written,
    machine_without_shared_home_has_its_own,
    own_directories_are_hidden_in_the_home,
];

fn files_of_the_user_belong_to_the_user(lab: &Lab) {
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

fn files_of_root_in_the_guest_belong_to_the_user(lab: &Lab) {
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

fn changes_on_the_host_are_visible(lab: &Lab) {
    let world = lab.root();
    fs::write(world.home().join("from-host"), "one").unwrap();
    let file = world.home().join("from-host").display().to_string();
    assert_eq!(world.inside("dev", &format!("cat {file}")), "one");
    fs::write(world.home().join("from-host"), "two!").unwrap();
    end_to_end::eventually("the guest sees the new contents", || {
        world.inside("dev", &format!("cat {file}")) == "two!"
    });
}

fn first_boot_does_not_change_the_home(lab: &Lab) {
    let world = lab.user();
    let user = world.user().unwrap();
    let home = fs::metadata(world.home()).unwrap();
    assert_eq!((home.uid(), home.gid()), (user.uid, user.gid));
    // Only useradd on the host has created files, from the host's skeleton.
    for entry in fs::read_dir("/etc/skel").unwrap() {
        let name = entry.unwrap().file_name();
        let there = fs::metadata(world.home().join(&name)).unwrap();
        let skeleton = fs::metadata(std::path::Path::new("/etc/skel").join(&name)).unwrap();
        assert_eq!(there.len(), skeleton.len(), "{name:?}");
        assert_eq!(there.uid(), user.uid, "{name:?}");
    }
}

fn root_may_change_owners(lab: &Lab) {
    let world = lab.root();
    let file = world.home().join("owned").display().to_string();
    world.inside("dev", &format!("echo x > {file} && chown 1234:5678 {file}"));
    let about = fs::metadata(&file).unwrap();
    assert_eq!((about.uid(), about.gid()), (1234, 5678));
}

fn read_only_home_cannot_be_written(lab: &Lab) {
    let world = World::for_user();
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
        // Remounting it in the guest does not help: the host refuses the write.
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

fn machine_without_shared_home_has_its_own(lab: &Lab) {
    let world = World::for_user();
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
    assert_eq!(
        shown, expected,
        "the home is created from the image's skeleton"
    );
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

/// The installation of this world is in the home, as it is by default.
fn own_directories_are_hidden_in_the_home(lab: &Lab) {
    let world = World::for_user_in_home();
    let user = world.user().unwrap();
    world.configure("");
    let data = ".local/share/container";
    world.create(&lab.image("debian-plain:12"), "dev", &[]);
    let inside = |line: &str| world.inside("dev", line);
    assert!(world.home().join(data).join("machines/dev").exists());
    for directory in [data, ".config/container"] {
        assert_eq!(inside(&format!("ls -A {directory}")), "", "{directory}");
        for line in [
            format!("touch {directory}/new"),
            format!("mv {directory} moved"),
            format!("rmdir {directory}"),
            format!("ln {directory}/config.toml linked"),
            format!("cat {directory}/config.toml"),
            "mv .local moved".to_owned(),
            "mv .config/container .config/other".to_owned(),
        ] {
            let outcome = world.run(&[
                "run",
                "-n",
                "dev",
                "--root",
                &format!("cd {}; {line}", world.home().display()),
            ]);
            assert_ne!(outcome.code, Some(0), "{line}: {outcome:?}");
        }
    }
    // The disk that the machine runs on is not copied into itself.
    let copied = inside("tar -c .local/share | tar -t | grep -c machines; true");
    assert_eq!(copied, "0\n");
    // The machine's own directories are on its disk, and nothing was created on the host.
    let mounted = inside(
        "stat -f -c %T .local/share/containers .config/systemd/user; stat -c '%U %a' .local/share/containers",
    );
    assert_eq!(
        mounted,
        format!("ext2/ext3\next2/ext3\n{} 700\n", user.name)
    );
    inside("echo mine > .local/share/containers/file");
    // (The service may have asked the host's podman for the image, which has created its storage.)
    assert!(!world.home().join(".local/share/containers/file").exists());
    assert!(!world.home().join(".config/systemd").exists());
    // The host's directories do not appear in the machine's.
    world.on_host(&[
        "mkdir",
        "-p",
        ".local/share/containers",
        ".config/systemd/user",
    ]);
    world.on_host(&[
        "touch",
        ".local/share/containers/hosts",
        ".config/systemd/user/hosts",
    ]);
    let seen = "ls .local/share/containers .config/systemd/user";
    let expected = ".config/systemd/user:\n\n.local/share/containers:\nfile\n";
    assert_eq!(inside(seen), expected);
    world.stdout(&["restart", "dev"]);
    assert_eq!(inside(seen), expected);
    let inspected = world.inspect("dev");
    let listed = inspected["privateHome"].as_array().unwrap();
    let containers = ".local/share/containers";
    assert!(listed.iter().any(|it| it == containers), "{listed:?}");
    // Another list, with the home read-only.
    world.stdout(&[
        "set",
        "-n",
        "dev",
        "private-home=.cache/build",
        "home-mount=ro",
    ]);
    world.stdout(&["restart", "dev"]);
    inside("echo built > .cache/build/file; ls .local/share/containers/hosts");
    assert!(!world.home().join(".cache").exists());
    assert_eq!(inside(&format!("ls -A {data}")), "");
    assert_ne!(world.run(&["run", "-n", "dev", "touch new"]).code, Some(0));
}
