//! What files of the shared home can do besides holding bytes.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    os::{
        fd::AsRawFd,
        unix::fs::{MetadataExt, PermissionsExt, chown},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread::{scope, sleep},
    time::Duration,
};

use end_to_end::{Lab, Outcome, World, eventually, our_kernel};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{FlockOperation, fcntl_lock},
    mount::{MountFlags, UnmountFlags, mount, unmount},
};

crate::declare::tests![
    extended_attributes_are_those_of_the_host,
    access_control_lists_count_on_both_sides,
    file_capabilities_need_a_privileged_share,
    many_names_are_those_of_the_host,
    cached_names_follow_the_host,
    special_files_and_odd_names_work,
    every_user_of_the_machine_creates_files,
    each_request_about_a_hung_directory_ends,
    programs_in_the_home_run,
    a_file_system_that_hangs_delays_no_other,
    file_systems_below_the_home_can_be_unmounted,
    stopped_processes_of_a_machine_continue,
];

fn host(world: &World, line: &str) -> String {
    let mut command = world.command(Path::new("/bin/sh"));
    let outcome = Outcome::from(command.args(["-c", line]).output().unwrap());
    assert_eq!(outcome.code, Some(0), "{line}: {outcome:?}");
    outcome.stdout
}

fn extended_attributes_are_those_of_the_host(lab: &Lab) {
    for world in lab.with_tools() {
        let home = world.home().display().to_string();
        world.inside(
            "dev",
            &format!("cd {home} && touch x && setfattr -n user.a -v guest x && setfattr -n user.b -v gone x && setfattr -x user.b x"),
        );
        let read = format!("cd {home} && getfattr -d x");
        assert_eq!(host(world, &read), "# file: x\nuser.a=\"guest\"\n\n");
        host(world, &format!("cd {home} && setfattr -n user.a -v host x"));
        assert_eq!(world.inside("dev", &read), "# file: x\nuser.a=\"host\"\n\n");
        // Programs that copy them.
        world.inside("dev", &format!("cd {home} && cp -a --preserve=all x y"));
        assert!(host(world, &format!("getfattr -d {home}/y")).contains("host"));
    }
}

fn access_control_lists_count_on_both_sides(lab: &Lab) {
    let world = lab.user_with_tools();
    let user = world.user().unwrap();
    let home = world.home();
    // A directory of root that the host has opened for the user.
    let directory = home.join("granted");
    fs::create_dir(&directory).unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).unwrap();
    let path = directory.display();
    let inside = |line: &str| world.run(&["run", "-n", "dev", line]);
    let touch = format!("touch {path}/by-guest");
    assert_ne!(inside(&touch).code, Some(0));
    let grant = format!("u:{}:rwx", user.uid);
    let granted = Command::new("setfacl")
        .args(["-m", &grant])
        .arg(&directory)
        .status();
    assert!(granted.unwrap().success());
    eventually("the guest sees the list", || inside(&touch).code == Some(0));
    assert_eq!(
        fs::metadata(directory.join("by-guest")).unwrap().uid(),
        user.uid
    );
    // Lists of the guest are the host's, and new files inherit them.
    world.inside(
        "dev",
        "cd ~ && mkdir listed && setfacl -m u:1:r,d:u:2:rw listed && touch listed/new",
    );
    let read = "getfacl --omit-header --numeric listed/new";
    let listed = host(world, &format!("cd {} && {read}", home.display()));
    assert!(listed.contains("user:2:rw-"), "{listed}");
    assert_eq!(world.inside("dev", &format!("cd ~ && {read}")), listed);
}

fn file_capabilities_need_a_privileged_share(lab: &Lab) {
    let line = "cd ~ && cp /bin/true capable && setcap cap_net_raw+ep capable && getcap capable";
    // An ordinary user of the host cannot grant them, and neither can root in the machine.
    let user = lab.user_with_tools();
    let refused = user.run(&[
        "run",
        "-n",
        "dev",
        "--root",
        &format!("HOME={} ; {line}", user.home().display()),
    ]);
    assert_ne!(refused.code, Some(0));
    assert!(
        refused.stderr.contains("Operation not permitted"),
        "{refused:?}"
    );
    let root = lab.root_with_tools();
    let line = line.replace('~', &root.home().display().to_string());
    assert_eq!(root.inside("dev", &line), "capable cap_net_raw=ep\n");
}

/// A lookup may refresh all names of a directory.
fn many_names_are_those_of_the_host(lab: &Lab) {
    for world in lab.with_tools() {
        let directory = world.home().join("many");
        let give = |path: &Path| {
            if let Some(user) = world.user() {
                chown(path, Some(user.uid), Some(user.gid)).unwrap();
            }
        };
        fs::create_dir(&directory).unwrap();
        give(&directory);
        for number in 0..300 {
            let path = directory.join(format!("f{number}"));
            fs::write(&path, "contents").unwrap();
            give(&path);
        }
        let replacement = world.home().join("replacement");
        fs::write(&replacement, "another").unwrap();
        let script = world.home().join("many_names.py");
        fs::write(&script, include_str!("many_names.py")).unwrap();
        let line = format!(
            "exec python3 {} {} {}",
            script.display(),
            directory.display(),
            fs::metadata(&replacement).unwrap().ino()
        );
        let mut command = world.machine(&["run", "-n", "dev", &line]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut program = command.spawn().unwrap();
        let mut output = BufReader::new(program.stdout.take().unwrap()).lines();
        assert_eq!(output.next().unwrap().unwrap(), "ready");
        let is_free = |name: &str| {
            let file = File::options().write(true).open(directory.join(name));
            fcntl_lock(file.unwrap(), FlockOperation::NonBlockingLockExclusive).is_ok()
        };
        assert!(!is_free("f20") && is_free("f21"));
        let path = |name: &str| directory.join(name);
        fs::rename(path("f6"), path("kept")).unwrap();
        fs::write(path("f6"), "another").unwrap();
        give(&path("f6"));
        fs::remove_file(path("f7")).unwrap();
        fs::write(directory.join("f1"), [b'x'; 1000]).unwrap();
        fs::remove_file(directory.join("f2")).unwrap();
        fs::rename(&replacement, directory.join("f3")).unwrap();
        fs::set_permissions(directory.join("f4"), fs::Permissions::from_mode(0o604)).unwrap();
        host(
            world,
            &format!("setfattr -n user.host -v 1 {}/f5", directory.display()),
        );
        program.stdin.take().unwrap().write_all(b"\n").unwrap();
        assert_eq!(output.next().unwrap().unwrap(), "seen");
        assert!(program.wait().unwrap().success());
        let contents = |name: &str| fs::read_to_string(path(name)).unwrap();
        assert_eq!(contents("kept"), "contents");
        assert_eq!([contents("f6"), contents("f7")], ["machine", "machine"]);
    }
}

/// With our kernel, names and attributes are cached for a minute, unless the host changes them.
fn cached_names_follow_the_host(lab: &Lab) {
    let user = World::for_user();
    let kernel = our_kernel().display().to_string();
    user.create(&lab.image("busybox:1"), "dev", &["--kernel", &kernel]);
    for world in [&user, lab.root_with_tools()] {
        let directory = world.home().join("followed");
        fs::create_dir_all(directory.join("sub")).unwrap();
        for name in ["grows", "mode", "gone", "replaced", "moved", "sub/deep"] {
            fs::write(directory.join(name), "old").unwrap();
        }
        // The attributes of a directory follow its names, also if the guest has not looked one up.
        let closed = directory.join("closed");
        fs::create_dir_all(&closed).unwrap();
        sleep(Duration::from_secs(3));
        let stat = format!("stat -c %Y {}", closed.display());
        let modified = || fs::metadata(&closed).unwrap().mtime().to_string();
        assert_eq!(world.inside("dev", &stat).trim(), modified());
        fs::write(closed.join("new"), "").unwrap();
        let later = format!("sleep 3; {stat}");
        assert_eq!(world.inside("dev", &later).trim(), modified());
        see_changes_before_each_command(world);
        see_mounts_and_unmounts(world, &directory.join("mounted"));
        for round in ["one", "three"] {
            let list = format!(
                "cd {} && ls -lR && cat grows replaced && ! test -e absent",
                directory.display()
            );
            world.inside("dev", &list);
            // Also after a change, everything is cached for long again.
            sleep(Duration::from_secs(3));
            world.inside("dev", &list);
            let path = |name: &str| directory.join(name);
            let modified_before = fs::metadata(&directory).unwrap().modified().unwrap();
            fs::write(path("grows"), format!("{round} and more")).unwrap();
            let mode = fs::metadata(path("mode")).unwrap().mode() ^ 0o111;
            fs::set_permissions(path("mode"), fs::Permissions::from_mode(mode)).unwrap();
            fs::remove_file(path("gone")).unwrap();
            fs::write(path("replacement"), round).unwrap();
            fs::rename(path("replacement"), path("replaced")).unwrap();
            fs::rename(path("moved"), path("sub/moved")).unwrap();
            fs::write(path("sub/deep"), format!("{round} below")).unwrap();
            fs::write(path("absent"), "").unwrap();
            // As tar and rsync do after they have written the files of a directory.
            let opened = File::open(&directory).unwrap();
            opened.set_modified(modified_before).unwrap();
            let seen = format!(
                "cd {}; test \"$(stat -c %s grows)\" = {} && test \"$(stat -c %a mode)\" = {:o} \
                 && ! stat gone && test \"$(stat -c %i replaced)\" = {} && ! stat moved && \
                 stat sub/moved && test \"$(stat -c %s sub/deep)\" = {} && stat absent && \
                 ls | grep -qx absent && ! ls | grep -qx gone",
                directory.display(),
                round.len() + " and more".len(),
                mode & 0o777,
                fs::metadata(path("replaced")).unwrap().ino(),
                round.len() + " below".len(),
            );
            // A command knows what the host has changed before it.
            world.inside("dev", &format!("{{ {seen}; }} > /dev/null"));
            let contents = format!("cd {} && cat grows replaced sub/deep", directory.display());
            assert_eq!(
                world.inside("dev", &contents),
                format!("{round} and more{round}{round} below")
            );
            fs::remove_file(path("absent")).unwrap();
            fs::write(path("gone"), "back").unwrap();
            fs::rename(path("sub/moved"), path("moved")).unwrap();
        }
    }
    let boot = "cat /proc/sys/kernel/random/boot_id";
    let before = user.inside("dev", boot);
    user.run(&["run", "-n", "dev", "--root", "reboot"]);
    eventually("the machine has rebooted", || {
        let outcome = user.run(&["run", "-n", "dev", boot]);
        outcome.code == Some(0) && outcome.stdout != before
    });
    see_changes_before_each_command(&user);
}

/// Changes a file before each command. Without waiting for it to be known, the machine would have
/// the attributes of the command before.
fn see_changes_before_each_command(world: &World) {
    let file = world.home().join("changed before each command");
    for size in 1..6 {
        fs::write(&file, "x".repeat(size)).unwrap();
        let line = format!("stat -c %s '{}'", file.display());
        assert_eq!(world.inside("dev", &line), format!("{size}\n"));
    }
}

/// Mounts a file system on a directory of the home that the machine has cached, and unmounts it.
fn see_mounts_and_unmounts(world: &World, directory: &Path) {
    fs::create_dir_all(directory).unwrap();
    fs::write(directory.join("below"), "").unwrap();
    let shown = |name: &str| format!("test \"$(ls {})\" = {name}", directory.display());
    await_inside(world, directory, &shown("below"));
    // Names are cached for long when nothing has changed for two seconds.
    sleep(Duration::from_secs(3));
    world.inside("dev", &shown("below"));
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "none"])
        .arg(directory)
        .status();
    assert!(mounted.unwrap().success());
    fs::write(directory.join("above"), "").unwrap();
    await_inside(world, directory, &shown("above"));
    sleep(Duration::from_secs(3));
    world.inside("dev", &shown("above"));
    unmount(directory, UnmountFlags::DETACH).unwrap();
    await_inside(world, directory, &shown("below"));
}

/// Waits until a condition holds in a machine, for less than the minute that names are cached.
fn await_inside(world: &World, directory: &Path, condition: &str) {
    let directory = directory.display();
    world.inside(
        "dev",
        &format!(
            "for i in $(seq 100); do if ({condition}) > /dev/null 2>&1; then exit 0; fi; \
             sleep 0.2; done; ls -lR {directory}; exit 1"
        ),
    );
}

/// Each is as on the host, or fails with the error of a file system without it.
fn special_files_and_odd_names_work(lab: &Lab) {
    for world in lab.with_tools() {
        let home = world.home().join("odd");
        let script = home.with_file_name("odd.py");
        fs::write(&script, include_str!("odd_files.py")).unwrap();
        let line = format!(
            "mkdir -p {0} && cd {0} && python3 {1}",
            home.display(),
            script.display()
        );
        let seen = world.inside("dev", &line);
        assert_eq!(seen, include_str!("odd_files.txt"));
    }
}

fn every_user_of_the_machine_creates_files(lab: &Lab) {
    for world in lab.with_tools() {
        create_files_as_every_user(world);
    }
}

fn create_files_as_every_user(world: &World) {
    let open = world.home().join("open");
    fs::create_dir_all(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o1777)).unwrap();
    if let Some(user) = world.user() {
        chown(&open, Some(user.uid), Some(user.gid)).unwrap();
    }
    fs::set_permissions(world.home(), fs::Permissions::from_mode(0o755)).unwrap();
    let path = open.display();
    // A user and a group without names, one of the system, and root in another group.
    for (uid, gid) in [(0, 0), (65534, 65534), (12345, 54321), (1, 1), (0, 54321)] {
        let line = format!(
            "cd {path} && setpriv --reuid={uid} --regid={gid} --groups=100,{gid} sh -c 'umask 022; echo x > f{uid}-{gid} && mkdir d{uid}-{gid} && ln -s x l{uid}-{gid} && mkfifo p{uid}-{gid} && cat f{uid}-{gid}'"
        );
        let made = world.stdout(&["run", "-n", "dev", "--root", &line]);
        assert_eq!(made, "x\n");
        for kind in ["f", "d", "l", "p"] {
            let name = format!("{kind}{uid}-{gid}");
            let about = fs::symlink_metadata(open.join(&name)).unwrap();
            let expected = match world.user() {
                Some(user) => (user.uid, user.gid),
                None => (uid, gid),
            };
            assert_eq!((about.uid(), about.gid()), expected, "{name}");
        }
    }
    // Others can change an ordinary user's files only with the permission for all.
    for (mask, is_owner) in [("022", world.user().is_none()), ("0", true)] {
        let line = format!(
            "cd {path} && umask {mask} && setpriv --reuid=12345 --regid=1 --clear-groups sh -c 'echo x > by-another{mask} && echo created && echo y >> by-another{mask}'"
        );
        let appended = world.run(&["run", "-n", "dev", "--root", &line]);
        assert_eq!(appended.stdout, "created\n", "{appended:?}");
        assert_eq!(appended.code == Some(0), is_owner, "{appended:?}");
    }
    // In a user namespace without an entry for the user's id, as in a rootless container.
    let line = format!(
        "cd {path} && unshare --user --map-root-user sh -c 'echo x > namespace && cat namespace'"
    );
    assert_eq!(world.inside("dev", &line), "x\n");
}

/// A file system with only a root, whose server (FUSE) may answer nothing. It is mounted until this
/// is dropped.
struct HungFileSystem {
    server: File,
    directory: PathBuf,
    /// Whether the server is asked when the root is opened.
    has_open: bool,
}

impl HungFileSystem {
    fn mount(directory: &Path, has_open: bool) -> HungFileSystem {
        fs::create_dir(directory).unwrap();
        let server = File::options()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .unwrap();
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0,allow_other",
            server.as_raw_fd()
        );
        let options = std::ffi::CString::new(options).unwrap();
        mount(
            "hung",
            directory,
            "fuse",
            MountFlags::empty(),
            options.as_c_str(),
        )
        .unwrap();
        HungFileSystem {
            server,
            directory: directory.to_owned(),
            has_open,
        }
    }

    /// Answers until `act` returns.
    fn answer_during<T>(&self, act: impl FnOnce() -> T) -> T {
        let is_over = AtomicBool::new(false);
        scope(|threads| {
            threads.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    self.answer_next();
                }
            });
            let result = act();
            is_over.store(true, Ordering::Relaxed);
            result
        })
    }

    fn answer_next(&self) {
        let mut request = [0; 1 << 14];
        let mut ready = [PollFd::new(&self.server, PollFlags::IN)];
        let timeout = Timespec::try_from(Duration::from_millis(20)).unwrap();
        if poll(&mut ready, Some(&timeout)).unwrap() > 0 {
            let length = (&self.server).read(&mut request).unwrap();
            self.answer(&request[..length]);
        }
    }

    /// Answers a request (linux/fuse.h); answers that are not empty consist of words of four bytes.
    fn answer(&self, request: &[u8]) {
        const FUSE_GETATTR: u32 = 3;
        const FUSE_STATFS: u32 = 17;
        const FUSE_GETXATTR: u32 = 22;
        const FUSE_LISTXATTR: u32 = 23;
        const FUSE_INIT: u32 = 26;
        const FUSE_OPENDIR: u32 = 27;
        const FUSE_READDIR: u32 = 28;
        const ENOSYS: u32 = 38;
        const ENODATA: u32 = 61;
        let word = |at: usize| u32::from_ne_bytes(request[at..at + 4].try_into().unwrap());
        let mut reply = vec![0, 0, word(8), word(12)];
        match word(4) {
            FUSE_INIT => {
                let mut words = [0; 16];
                // The version, and the size of a write.
                (words[0], words[1], words[5]) = (7, 31, 4096);
                reply.extend(words);
            }
            FUSE_GETATTR => {
                let mut words = [0; 26];
                // Inode number, mode and links.
                (words[4], words[19], words[20]) = (1, 0o40755, 2);
                reply.extend(words);
            }
            FUSE_STATFS => reply.extend([0; 20]),
            FUSE_GETXATTR => reply[1] = ENODATA.wrapping_neg(),
            FUSE_LISTXATTR => reply.extend([0; 2]),
            FUSE_OPENDIR if self.has_open => reply.extend([0; 4]),
            FUSE_READDIR => {}
            // The kernel does not ask again.
            _ => reply[1] = ENOSYS.wrapping_neg(),
        }
        reply[0] = 4 * reply.len() as u32;
        let bytes: Vec<u8> = reply.into_iter().flat_map(u32::to_ne_bytes).collect();
        (&self.server).write_all(&bytes).unwrap();
    }
}

impl Drop for HungFileSystem {
    fn drop(&mut self) {
        // A panic here would abort the tests if this test has failed.
        let _ = unmount(&self.directory, UnmountFlags::DETACH);
    }
}

/// The emulator must notice that the file share has written a program to memory where another one
/// was.
fn programs_in_the_home_run(lab: &Lab) {
    for world in lab.with_tools() {
        let line = "cp $(readlink -f /usr/bin/python3) ~/copied-python && for i in $(seq 20); \
                    do ~/copied-python -c 'import json, hashlib; print(json.dumps([1]))'; done";
        assert_eq!(world.inside("dev", line), "[1]\n".repeat(20));
    }
}

/// Programs that pass by ask for one of these first, and could not be killed while they wait.
fn each_request_about_a_hung_directory_ends(lab: &Lab) {
    for world in lab.with_tools() {
        let root = world.home().join("hung-root");
        let hung = HungFileSystem::mount(&root, true);
        let run = |line: &str| {
            let line = format!("cd ~ && export LC_ALL=C && {line}");
            world.run(&["run", "-n", "dev", &line])
        };
        for request in [
            "getfattr -n user.a hung-root",
            "getfattr -d -m - hung-root",
            "stat -f hung-root",
            "ls hung-root",
            "ls -ld hung-root",
        ] {
            let all = "getfattr -d -m - hung-root && stat -f hung-root && ls -l hung-root";
            hung.answer_during(|| eventually("it answers", || run(all).code == Some(0)));
            let failed = run(request);
            assert!(failed.stderr.contains("timed out"), "{request}: {failed:?}");
        }
        drop(hung);
        fs::remove_dir(root).unwrap();
    }
}

fn a_file_system_that_hangs_delays_no_other(lab: &Lab) {
    let world = World::for_user();
    let kernel = our_kernel();
    let image = lab.image("debian-tools:12");
    world.create(&image, "dev", &["--kernel", &kernel.display().to_string()]);
    create_files_as_every_user(&world);
    let hung = HungFileSystem::mount(&world.home().join("hung"), false);
    // The machine knows the name for longer than the attributes, and for longer than the file share
    // has the directory open if nobody uses it.
    for unused in [1.5, 6.0] {
        let look = format!(
            "cd ~ && ls -l hung && ls -l > /dev/null; sleep 4; ls -l > /dev/null; sleep {unused}"
        );
        hung.answer_during(|| world.inside("dev", &look));
        for _ in 0..2 {
            let failed = world.run(&["run", "-n", "dev", "ls -l ~"]);
            assert_eq!(failed.stderr.matches("timed out").count(), 1, "{failed:?}");
        }
        hung.answer_during(|| {
            eventually("it answers", || {
                world.run(&["run", "-n", "dev", "ls -l ~"]).code == Some(0)
            })
        });
    }
    // More than the file share has threads, and without lookups of the directory.
    let line = "cd ~/hung && echo ready && read hangs && \
                for i in $(seq 300); do ls & done; echo waiting; wait";
    let mut command = world.machine(&["run", "-n", "dev", line]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut waiting = command.spawn().unwrap();
    let mut output = BufReader::new(waiting.stdout.take().unwrap()).lines();
    let first = hung.answer_during(|| output.next().unwrap().unwrap());
    assert_eq!(first, "ready");
    waiting.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert_eq!(output.next().unwrap().unwrap(), "waiting");
    let line = "cd ~ && mkdir works && cd works && for i in $(seq 100); do echo $i > f$i; done && cat f* | wc -l && rm f* && ls ..";
    let seen = world.inside("dev", line);
    assert!(seen.starts_with("100\n") && seen.contains("hung"), "{seen}");
    // More than the machine has processors.
    let line = "cd ~; for i in $(seq 20); do ls -l hung & done; wait";
    let blocked = world.run(&["run", "-n", "dev", "-d", line]);
    assert_eq!(blocked.code, Some(0), "{blocked:?}");
    // A program that needs it learns of it.
    let failed = world.run(&["run", "-n", "dev", "ls -l ~"]);
    assert!(failed.stdout.contains(" works\n"), "{failed:?}");
    assert_eq!(failed.stderr.matches("timed out").count(), 1, "{failed:?}");
    hung.answer_during(|| waiting.wait().unwrap());
    world.stdout(&["stop", "dev"]);
    let log = fs::read_to_string(world.bundle("dev", "runtime.log")).unwrap();
    assert!(!log.contains("did not power off in time"), "{log}");
    drop(hung);
}

/// A file system in memory, mounted until this is dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn mount(directory: &Path) -> Mounted {
        let options = Some(c"mode=1777");
        mount("none", directory, "tmpfs", MountFlags::empty(), options).unwrap();
        Mounted(directory.to_owned())
    }

    fn is_unmounted(&self) -> bool {
        unmount(&self.0, UnmountFlags::empty()).is_ok()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Fails if it is unmounted.
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

fn file_systems_below_the_home_can_be_unmounted(lab: &Lab) {
    for world in lab.with_tools() {
        let directory = world.home().join("mounted");
        fs::create_dir(&directory).unwrap();
        let path = directory.display();
        let inside = |line: &str| world.inside("dev", &format!("cd {path} && {line}"));
        let exists = |name: &str| {
            let line = format!("test -e {path}/{name}");
            world.run(&["run", "-n", "dev", &line]).code == Some(0)
        };
        let first = Mounted::mount(&directory);
        fs::write(directory.join("first"), "").unwrap();
        eventually("the machine sees the file system", || exists("first"));
        inside("mkdir -p a/b && echo first > a/b/file");
        assert_eq!(
            inside("find . && cat a/b/file").lines().last(),
            Some("first")
        );
        let line = format!("exec 3< {path}/a/b/file; echo open; read end; cat <&3");
        let mut command = world.machine(&["run", "-n", "dev", &line]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut program = command.spawn().unwrap();
        let mut output = BufReader::new(program.stdout.take().unwrap()).lines();
        assert_eq!(output.next().unwrap().unwrap(), "open");
        // Closed files are found again.
        sleep(Duration::from_secs(5));
        assert!(!first.is_unmounted(), "a program has a file open");
        assert_eq!(inside("cat a/b/file"), "first\n");
        program.stdin.take().unwrap().write_all(b"\n").unwrap();
        assert_eq!(output.next().unwrap().unwrap(), "first");
        assert!(program.wait().unwrap().success());
        eventually("the file system is unmounted", || first.is_unmounted());
        eventually("the machine sees that it is unmounted", || !exists("a"));
        let second = Mounted::mount(&directory);
        fs::write(directory.join("second"), "second").unwrap();
        eventually("the machine sees another", || exists("second"));
        assert_eq!(inside("ls && cat second"), "second\nsecond");
        eventually("the other is unmounted", || second.is_unmounted());
    }
}

/// Processes are stopped by debuggers, frozen control groups, and hosts that sleep.
fn stopped_processes_of_a_machine_continue(lab: &Lab) {
    for world in lab.with_tools() {
        let line = "mkdir ~/stopped && cd ~/stopped && echo ready && \
                    while [ ! -e end ]; do echo x > new && cat new && rm new || exit; done";
        let mut command = world.machine(&["run", "-n", "dev", line]);
        let mut program = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(program.stdout.take().unwrap()).lines();
        assert_eq!(output.next().unwrap().unwrap(), "ready");
        let of_machine = [
            world.processes("file-share"),
            world.engines(),
            world.processes("runtime"),
        ];
        for process in of_machine.iter().flatten() {
            process.pause();
            let is_stopped = || process.status("State").unwrap().starts_with('T');
            eventually("the process is stopped", is_stopped);
            // Timeouts of waiting threads pass.
            sleep(Duration::from_millis(1500));
            process.resume();
            let line = "cd ~ && echo $$ > after && cat after && rm after";
            assert_ne!(world.inside("dev", line), "", "{process:?}");
        }
        assert_eq!(of_machine.map(|processes| processes.len()), [1; 3]);
        world.inside("dev", "touch ~/stopped/end");
        assert_eq!(output.next().unwrap().unwrap(), "x");
        drop(output);
        assert!(program.wait().unwrap().success());
    }
}
