//! Changes of files in the shared home, as programs that watch them see them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    mem::MaybeUninit,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use end_to_end::{Lab, World, eventually};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};

crate::declare::tests![watchers_see_changes_of_the_host];

/// Events that are compared. The file share itself opens and reads files.
const EVENTS: &str =
    "modify,attrib,close_write,moved_from,moved_to,create,delete,delete_self,move_self";

/// A directory of a world's home.
struct Directory<'a> {
    world: &'a World,
    path: PathBuf,
}

impl<'a> Directory<'a> {
    fn create(world: &'a World, name: &str) -> Directory<'a> {
        let path = world.home().join(name);
        let directory = Directory { world, path };
        fs::create_dir(&directory.path).unwrap();
        directory.give("");
        directory
    }

    fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Gives a file to the world's user.
    fn give(&self, name: &str) {
        if let Some(user) = self.world.user() {
            chown(self.path(name), Some(user.uid), Some(user.gid)).unwrap();
        }
    }

    fn write(&self, name: &str, contents: &str) {
        fs::write(self.path(name), contents).unwrap();
    }
}

/// Lines that a program has printed so far.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    fn add(&self, line: String) {
        self.0.lock().unwrap().push(line);
    }

    /// Waits for a line, and returns those before it. Removes both.
    fn before(&self, last: &str) -> Vec<String> {
        eventually(&format!("{last:?} is printed"), || {
            self.all().iter().any(|line| line == last)
        });
        let mut lines = self.0.lock().unwrap();
        let end = lines.iter().position(|line| line == last).unwrap();
        lines.drain(..=end).take(end).collect()
    }
}

/// A program in a machine that prints events, until this is dropped.
struct Watcher {
    child: Child,
    lines: Lines,
}

impl Watcher {
    /// Starts a program, and waits until the file share watches these files, and no others, on the
    /// host.
    fn start(world: &World, line: &str, watched: &[&Path]) -> Watcher {
        let mut command = world.machine(&["run", "-n", "dev", line]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let lines = Lines::default();
        thread::spawn({
            let lines = lines.clone();
            move || {
                for line in output.lines().map_while(Result::ok) {
                    lines.add(line.trim_end().to_owned());
                }
            }
        });
        await_marks(world, watched);
        Watcher { child, lines }
    }

    /// Closes standard input, and waits for the end.
    fn finish(mut self) {
        drop(self.child.stdin.take());
        eventually("the watching program ends", || {
            self.child.try_wait().unwrap().is_some()
        });
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // Fails if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until the file share of a world watches exactly these files.
fn await_marks(world: &World, watched: &[&Path]) {
    let inode = |path: &&Path| fs::metadata(path).unwrap().ino();
    let expected: BTreeSet<u64> = watched.iter().map(inode).collect();
    eventually(&format!("the file share watches {watched:?}"), || {
        marks(world) == expected
    });
}

/// Returns the inode numbers of the files that a world's file share watches for programs of the
/// machine (proc_pid_fdinfo(5)). Its second group of marks is for names that the machine has
/// cached.
fn marks(world: &World) -> BTreeSet<u64> {
    let mut inodes = BTreeSet::new();
    for process in world.processes("file-share") {
        let directory = PathBuf::from(format!("/proc/{}/fd", process.pid));
        let descriptors = fs::read_dir(&directory).into_iter().flatten().flatten();
        let is_group = |descriptor: &i32| {
            let target = fs::read_link(directory.join(descriptor.to_string()));
            target.is_ok_and(|target| target == Path::new("anon_inode:[fanotify]"))
        };
        let numbers = descriptors.filter_map(|it| it.file_name().to_str()?.parse().ok());
        let Some(first) = numbers.filter(is_group).min() else {
            continue;
        };
        let information = fs::read_to_string(format!("/proc/{}/fdinfo/{first}", process.pid));
        let information = information.unwrap_or_default();
        inodes.extend(information.lines().filter_map(|line| {
            let mark = line.strip_prefix("fanotify ino:")?;
            u64::from_str_radix(mark.split(' ').next()?, 16).ok()
        }));
    }
    inodes
}

/// Prints the events of a directory of the host as inotifywait does with the format `%e %f`.
fn watch_on_host(directory: &Path) -> Lines {
    let watcher = inotify::init(CreateFlags::CLOEXEC).unwrap();
    let events = WatchFlags::MODIFY
        | WatchFlags::ATTRIB
        | WatchFlags::CLOSE_WRITE
        | WatchFlags::MOVE
        | WatchFlags::CREATE
        | WatchFlags::DELETE
        | WatchFlags::DELETE_SELF
        | WatchFlags::MOVE_SELF;
    inotify::add_watch(&watcher, directory, events).unwrap();
    let lines = Lines::default();
    thread::spawn({
        let lines = lines.clone();
        move || {
            let mut buffer = [MaybeUninit::uninit(); 16 << 10];
            let mut reader = inotify::Reader::new(watcher, &mut buffer);
            while let Ok(event) = reader.next() {
                let name = event.file_name().unwrap_or_default().to_string_lossy();
                let line = format!("{} {name}", names(event.events()).join(","));
                lines.add(line.trim_end().to_owned());
            }
        }
    });
    lines
}

/// Returns the names of an event's flags as inotifywait prints them.
fn names(flags: ReadFlags) -> Vec<&'static str> {
    let names = [
        (ReadFlags::MODIFY, "MODIFY"),
        (ReadFlags::ATTRIB, "ATTRIB"),
        (ReadFlags::CLOSE_WRITE, "CLOSE_WRITE"),
        (ReadFlags::MOVED_FROM, "MOVED_FROM"),
        (ReadFlags::MOVED_TO, "MOVED_TO"),
        (ReadFlags::CREATE, "CREATE"),
        (ReadFlags::DELETE, "DELETE"),
        (ReadFlags::DELETE_SELF, "DELETE_SELF"),
        (ReadFlags::MOVE_SELF, "MOVE_SELF"),
        (ReadFlags::CLOSE_WRITE, "CLOSE"),
        (ReadFlags::ISDIR, "ISDIR"),
    ];
    let names = names.into_iter().filter(|(flag, _)| flags.contains(*flag));
    names.map(|(_, name)| name).collect()
}

/// Returns the events without repetitions, which the file share and the kernel merge.
fn merged(mut events: Vec<String>) -> Vec<String> {
    events.dedup();
    events
}

fn inotifywait(path: &Path) -> String {
    let path = path.display();
    // The command ends with its standard input.
    format!("inotifywait -q -m -e {EVENTS} --format '%e %f' {path} & cat; kill $!")
}

fn watchers_see_changes_of_the_host(lab: &Lab) {
    for world in lab.with_tools() {
        let outside = Directory::create(world, "outside");
        let watched = Directory::create(world, "watched");
        outside.write("moved-in", "x");
        fs::create_dir(outside.path("directory-in")).unwrap();
        let line = inotifywait(&watched.path);
        let inside = Watcher::start(world, &line, &[&watched.path]);
        let on_host = watch_on_host(&watched.path);
        compare_changes(&watched, &outside, &inside.lines, &on_host);
        see_own_changes_once(&watched, &inside.lines);
        see_a_burst(&watched, &inside.lines);
        inside.finish();
        await_marks(world, &[]);
        if world.user().is_none() {
            see_that_changes_were_lost(world);
        }
        see_a_watched_file(&watched);
        see_changes_with_node(&watched);
        see_changes_with_notify(&watched);
    }
}

/// Makes changes on the host, and compares the events in the machine with those on the host.
fn compare_changes(watched: &Directory<'_>, outside: &Directory<'_>, inside: &Lines, host: &Lines) {
    let mode = fs::Permissions::from_mode;
    let rename = |from: PathBuf, to: PathBuf| fs::rename(from, to).unwrap();
    let path = |name: &str| watched.path(name);
    let steps: [(&str, &dyn Fn()); 16] = [
        ("create", &|| watched.write("a", "1\n")),
        ("append", &|| {
            let mut file = File::options().append(true).open(path("a")).unwrap();
            file.write_all(b"2\n").unwrap();
        }),
        ("truncate", &|| watched.write("a", "")),
        ("chmod", &|| {
            fs::set_permissions(path("a"), mode(0o600)).unwrap();
        }),
        ("rename", &|| rename(path("a"), path("b"))),
        ("rename over", &|| {
            watched.write("c", "c");
            rename(path("c"), path("b"));
        }),
        ("rename in", &|| {
            rename(outside.path("moved-in"), path("in"))
        }),
        ("rename out", &|| {
            rename(path("in"), outside.path("moved-out"))
        }),
        ("hard link", &|| {
            fs::hard_link(path("b"), path("link")).unwrap();
        }),
        ("symbolic link", &|| {
            std::os::unix::fs::symlink("nowhere", path("symlink")).unwrap();
        }),
        ("remove", &|| {
            for name in ["b", "link", "symlink"] {
                fs::remove_file(path(name)).unwrap();
            }
        }),
        ("mkdir", &|| fs::create_dir(path("d")).unwrap()),
        ("rename directory", &|| rename(path("d"), path("e"))),
        ("move directory", &|| {
            rename(outside.path("directory-in"), path("f"));
            rename(path("e"), outside.path("directory-out"));
        }),
        ("rmdir", &|| fs::remove_dir(path("f")).unwrap()),
        ("replace", &|| {
            fs::create_dir(path("x")).unwrap();
            fs::remove_dir(path("x")).unwrap();
            watched.write("x", "x");
            fs::remove_file(path("x")).unwrap();
        }),
    ];
    for (number, (step, change)) in steps.iter().enumerate() {
        change();
        let end = format!("end{number}");
        File::create(path(&end)).unwrap();
        let end = format!("CREATE {end}");
        let expected = merged(host.before(&end));
        assert_eq!(merged(inside.before(&end)), expected, "{step}");
        let closed = end.replace("CREATE", "CLOSE_WRITE,CLOSE");
        host.before(&closed);
        inside.before(&closed);
    }
    // The machine sees what the host has done.
    let world = watched.world;
    let list = format!("ls {}", watched.path.display());
    let count = world.inside("dev", &list).lines().count();
    assert_eq!(count, steps.len());
}

fn see_own_changes_once(watched: &Directory<'_>, inside: &Lines) {
    let line = format!(
        "cd {} && echo x > own && chmod 600 own && mv own other && rm other && mkdir end && rmdir end",
        watched.path.display()
    );
    watched.world.inside("dev", &line);
    let expected = [
        "CREATE own",
        "MODIFY own",
        "CLOSE_WRITE,CLOSE own",
        "ATTRIB own",
        "MOVED_FROM own",
        "MOVED_TO other",
        "DELETE other",
        "CREATE,ISDIR end",
    ];
    assert_eq!(inside.before("DELETE,ISDIR end"), expected);
    // A later change of the host follows at once.
    watched.write("after", "");
    assert_eq!(inside.before("CREATE after"), Vec::<String>::new());
    inside.before("CLOSE_WRITE,CLOSE after");
}

fn see_a_burst(watched: &Directory<'_>, inside: &Lines) {
    let names: Vec<String> = (0..500).map(|number| format!("burst{number}")).collect();
    for name in &names {
        watched.write(name, name);
    }
    for name in &names {
        fs::remove_file(watched.path(name)).unwrap();
    }
    // These are removed while the machine repeats their creation.
    let fleeting: Vec<String> = (0..500).map(|number| format!("fleeting{number}")).collect();
    for name in &fleeting {
        watched.write(name, name);
        fs::remove_file(watched.path(name)).unwrap();
    }
    watched.write("calm", "");
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for line in inside.before("CREATE calm") {
        *counts.entry(line).or_default() += 1;
    }
    for name in names.iter().chain(&fleeting) {
        for event in ["CREATE", "MODIFY", "CLOSE_WRITE,CLOSE", "DELETE"] {
            let count = counts.get(&format!("{event} {name}"));
            assert_eq!(count, Some(&1), "{event} {name}");
        }
    }
}

/// While the machine is paused, more files are created than may wait to be repeated.
fn see_that_changes_were_lost(world: &World) {
    let many = Directory::create(world, "overflowing");
    let inside = Watcher::start(world, &inotifywait(&many.path), &[&many.path]);
    let engines = world.engines();
    for engine in &engines {
        engine.pause();
    }
    for number in 0..34_000 {
        File::create(many.path(&number.to_string())).unwrap();
    }
    for engine in &engines {
        engine.resume();
    }
    inside.lines.before("ATTRIB,ISDIR");
    many.write("calm", "");
    inside.lines.before("CREATE calm");
    let list = format!("ls {} | wc -l", many.path.display());
    assert_eq!(world.inside("dev", &list).trim(), "34001");
    inside.finish();
    await_marks(world, &[]);
}

/// A program may watch a file and not its directory, as `tail -F` and editors do.
fn see_a_watched_file(watched: &Directory<'_>) {
    watched.write("single", "1\n");
    let single = watched.path("single");
    let line = inotifywait(&single);
    let inside = Watcher::start(watched.world, &line, &[&single]);
    let mut file = File::options().append(true).open(&single).unwrap();
    file.write_all(b"2\n").unwrap();
    drop(file);
    let before = inside.lines.before("CLOSE_WRITE,CLOSE");
    assert_eq!(before, ["MODIFY"]);
    watched.write("new", "new");
    fs::rename(watched.path("new"), &single).unwrap();
    let before = inside.lines.before("DELETE_SELF");
    assert_eq!(before, ["ATTRIB"]);
    inside.finish();
    await_marks(watched.world, &[]);
}

fn see_changes_with_node(watched: &Directory<'_>) {
    let path = watched.path.display();
    let script = format!(
        "require('fs').watch('{path}', (event, name) => console.log(event, name)); process.stdin.on('end', () => process.exit()).resume()"
    );
    let line = format!("exec node -e \"{script}\"");
    let node = Watcher::start(watched.world, &line, &[&watched.path]);
    watched.write("new.js", "1");
    node.lines.before("rename new.js");
    node.lines.before("change new.js");
    fs::remove_file(watched.path("new.js")).unwrap();
    node.lines.before("rename new.js");
    node.finish();
    await_marks(watched.world, &[]);
}

/// A program that watches a tree sets watches in new directories.
fn see_changes_with_notify(watched: &Directory<'_>) {
    let program = watched.world.home().join("watcher");
    fs::copy(env!("CARGO_BIN_EXE_watcher"), &program).unwrap();
    let line = format!("exec {} {}", program.display(), watched.path.display());
    let notify = Watcher::start(watched.world, &line, &[&watched.path]);
    let subdirectory = watched.path("source");
    fs::create_dir(&subdirectory).unwrap();
    watched.give("source");
    notify.lines.before("Create(Folder) source");
    await_marks(watched.world, &[&watched.path, &subdirectory]);
    watched.write("source/main.rs", "1");
    notify.lines.before("Create(File) main.rs");
    notify.lines.before("Access(Close(Write)) main.rs");
    fs::remove_file(watched.path("source/main.rs")).unwrap();
    notify.lines.before("Remove(File) main.rs");
    notify.finish();
}
