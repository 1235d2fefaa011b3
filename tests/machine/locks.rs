//! Locks of files in the shared home, between host and machine.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
};

use end_to_end::{Lab, Outcome, World, eventually};

crate::declare::tests![
    locks_of_the_host_hold_in_the_machine,
    locks_in_the_machine_hold_on_the_host,
    waiters_are_woken_across_host_and_machine,
    waiters_in_the_machine_can_be_interrupted,
    a_machine_stops_while_its_processes_wait_for_locks,
    contents_are_current_under_a_lock,
    no_thread_opens_a_file_that_the_host_has_replaced,
    databases_are_written_from_both_sides,
    a_database_with_a_log_is_used_by_one_side_at_a_time,
];

const KINDS: [&str; 3] = ["flock", "posix", "ofd"];

/// A file in a world's home, and the program that locks it.
struct Fixture<'a> {
    world: &'a World,
    directory: PathBuf,
}

/// A process that runs until this is dropped.
struct Running {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl<'a> Fixture<'a> {
    fn new(world: &'a World, name: &str) -> Fixture<'a> {
        let directory = world.home().join(name);
        let made = world.command(Path::new("mkdir")).arg(&directory).status();
        assert!(made.unwrap().success());
        let fixture = Fixture { world, directory };
        fixture.write("locker.py", include_str!("locker.py"));
        fixture.write("file", "0\n");
        fixture
    }

    /// Writes a file as the world's user.
    fn write(&self, name: &str, contents: &str) {
        let path = self.directory.join(name);
        fs::write(&path, contents).unwrap();
        if let Some(user) = self.world.user() {
            std::os::unix::fs::chown(&path, Some(user.uid), Some(user.gid)).unwrap();
        }
    }

    /// Returns a shell line that runs the locker.
    fn line(&self, arguments: &str) -> String {
        format!(
            "cd {} && exec python3 locker.py {arguments}",
            self.directory.display()
        )
    }

    fn on_host(&self, line: &str) -> Command {
        let mut command = self.world.command(Path::new("/bin/sh"));
        command.args(["-c", line]);
        command
    }

    fn in_machine(&self, line: &str) -> Command {
        self.world.machine(&["run", "-n", "dev", line])
    }

    fn locker_on_host(&self, arguments: &str) -> String {
        stdout(self.on_host(&self.line(arguments)))
    }

    fn locker_in_machine(&self, arguments: &str) -> String {
        stdout(self.in_machine(&self.line(arguments)))
    }
}

fn stdout(mut command: Command) -> String {
    let outcome = Outcome::from(command.output().unwrap());
    assert_eq!(outcome.code, Some(0), "{command:?}: {outcome:?}");
    outcome.stdout
}

impl Running {
    /// Starts a command, and waits for its first line.
    fn start(mut command: Command, first_line: &str) -> Running {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut running = Running { child, output };
        assert_eq!(running.next_line(), first_line, "{command:?}");
        running
    }

    fn next_line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn write_line(&mut self) {
        writeln!(self.child.stdin.as_mut().unwrap()).unwrap();
    }

    /// Closes standard input and waits for the end.
    fn finish(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // Fails if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What other processes may lock while one holds a lock. Locks of both sorts of bytes exclude each
/// other, and flock(2) is apart.
fn free_beside(kind: &str) -> &'static str {
    match kind {
        "flock" => "flock:no posix:yes ofd:yes\n",
        _ => "flock:yes posix:no ofd:no\n",
    }
}

const ALL_FREE: &str = "flock:yes posix:yes ofd:yes\n";

fn locks_of_the_host_hold_in_the_machine(lab: &Lab) {
    for world in lab.with_tools() {
        let fixture = Fixture::new(world, "host-holds");
        for kind in KINDS {
            let hold = fixture.on_host(&fixture.line(&format!("hold {kind} file")));
            let holder = Running::start(hold, "held");
            assert_eq!(fixture.locker_in_machine("try file"), free_beside(kind));
            holder.finish();
        }
        assert_eq!(fixture.locker_in_machine("try file"), ALL_FREE);
    }
}

fn locks_in_the_machine_hold_on_the_host(lab: &Lab) {
    for world in lab.with_tools() {
        let fixture = Fixture::new(world, "guest-holds");
        for kind in KINDS {
            let hold = fixture.in_machine(&fixture.line(&format!("hold {kind} file")));
            let holder = Running::start(hold, "held");
            assert_eq!(fixture.locker_on_host("try file"), free_beside(kind));
            // Also for other processes of the machine.
            assert_eq!(fixture.locker_in_machine("try file"), free_beside(kind));
            holder.finish();
            // The guest's kernel releases a closed file later.
            eventually("the lock ends with its process", || {
                fixture.locker_on_host("try file") == ALL_FREE
            });
        }
    }
}

fn waiters_are_woken_across_host_and_machine(lab: &Lab) {
    for world in lab.with_tools() {
        let fixture = Fixture::new(world, "wake");
        for kind in KINDS {
            let hold = fixture.line(&format!("hold {kind} file"));
            let wait = fixture.line(&format!("wait {kind} file"));
            for (hold, wait) in [
                (fixture.on_host(&hold), fixture.in_machine(&wait)),
                (fixture.in_machine(&hold), fixture.on_host(&wait)),
                (fixture.in_machine(&hold), fixture.in_machine(&wait)),
            ] {
                let holder = Running::start(hold, "held");
                let mut waiter = Running::start(wait, "waiting");
                holder.finish();
                assert_eq!(waiter.next_line(), "locked");
                waiter.finish();
            }
        }
    }
}

fn waiters_in_the_machine_can_be_interrupted(lab: &Lab) {
    for world in lab.with_tools() {
        let fixture = Fixture::new(world, "interrupt");
        for kind in KINDS {
            let hold = fixture.on_host(&fixture.line(&format!("hold {kind} file")));
            let holder = Running::start(hold, "held");
            let alarm = fixture.locker_in_machine(&format!("wait-alarm {kind} file"));
            assert_eq!(alarm, "interrupted\n");
            if kind == "flock" {
                interrupt_flock(&fixture);
            }
            holder.finish();
            // Nobody of the killed has the lock, or waits for it.
            assert_eq!(fixture.locker_on_host("try file"), ALL_FREE);
        }
    }
}

/// Ends flock(1) in each way that users do.
fn interrupt_flock(fixture: &Fixture<'_>) {
    let directory = fixture.directory.display();
    let inside = |line: &str| {
        let line = format!("cd {directory}; {line}");
        stdout(fixture.in_machine(&line))
    };
    assert_eq!(inside("timeout 1 flock file true; echo $?"), "124\n");
    assert_eq!(inside("flock -w 1 file true; echo $?"), "1\n");
    let killed = |signal: &str| {
        let line = format!(
            "flock file true & waiter=$!; sleep 1; kill -{signal} $waiter; wait $waiter; echo $?"
        );
        inside(&line)
    };
    assert_eq!(killed("KILL"), "137\n");
    assert_eq!(killed("TERM"), "143\n");
    // A shell's background process ignores SIGINT.
    let line = "python3 -c 'import signal; signal.signal(signal.SIGINT, signal.SIG_DFL); import fcntl; fcntl.flock(open(\"file\"), fcntl.LOCK_EX)' & waiter=$!; sleep 1; kill -INT $waiter; wait $waiter; echo $?";
    assert_eq!(inside(line), "130\n");
    // Stopped and continued, it waits on.
    let line = "flock -w 30 file true & waiter=$!; sleep 1; kill -STOP $waiter; sleep 1; grep ^State /proc/$waiter/status; kill -CONT $waiter; sleep 1; kill -0 $waiter && kill $waiter; wait $waiter || true";
    assert_eq!(inside(line), "State:\tT (stopped)\n");
}

fn a_machine_stops_while_its_processes_wait_for_locks(lab: &Lab) {
    let world = World::for_user();
    world.create(&lab.image("debian-tools:12"), "dev", &[]);
    let fixture = Fixture::new(&world, "stop");
    let hold = fixture.on_host(&fixture.line("hold posix file"));
    let _holder = Running::start(hold, "held");
    let wait = fixture.in_machine(&fixture.line("wait posix file"));
    let _waiter = Running::start(wait, "waiting");
    world.stdout(&["stop", "dev"]);
    let log = fs::read_to_string(world.bundle("dev", "runtime.log")).unwrap();
    assert!(!log.contains("did not power off in time"), "{log}");
}

/// Host and machine count in one file. Each reads what the other has written, with a lock of the
/// file or of another one, and replaces the contents or the file.
fn contents_are_current_under_a_lock(lab: &Lab) {
    for world in lab.with_tools() {
        let fixture = Fixture::new(world, "count");
        fixture.write("replaced", "0\n");
        fixture.write("lock", "");
        let line = format!(
            "cd {} && for i in $(seq 40); do flock file sh -c 'n=$(cat file); echo $((n + 1)) > file'; flock lock sh -c 'n=$(cat replaced); echo $((n + 1)) > new; mv new replaced'; done",
            fixture.directory.display()
        );
        let mut in_machine = fixture.in_machine(&line).spawn().unwrap();
        stdout(fixture.on_host(&line));
        assert!(in_machine.wait().unwrap().success());
        for name in ["file", "replaced"] {
            let read = fs::read_to_string(fixture.directory.join(name)).unwrap();
            assert_eq!(read, "80\n", "{name}");
        }
    }
}

/// Threads in the machine open a path at once, which their kernel still finds in its cache. SQLite
/// does so with logs that the host has removed.
fn no_thread_opens_a_file_that_the_host_has_replaced(lab: &Lab) {
    const READ: &str = "
import os, sys, threading
together = threading.Barrier(4)
def read():
    together.wait()
    with open('file') as file:
        found.add(file.read())
while True:
    os.stat('file')
    print('ready', flush=True)
    if not sys.stdin.readline():
        break
    found = set()
    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    print(*found, flush=True)
";
    for world in lab.with_tools() {
        let fixture = Fixture::new(world, "replaced");
        fixture.write("read.py", READ);
        let line = format!("cd {} && exec python3 read.py", fixture.directory.display());
        let mut reader = Running::start(fixture.in_machine(&line), "ready");
        for number in 0..20 {
            fixture.write("new", &number.to_string());
            fs::rename(
                fixture.directory.join("new"),
                fixture.directory.join("file"),
            )
            .unwrap();
            reader.write_line();
            assert_eq!(reader.next_line(), number.to_string());
            assert_eq!(reader.next_line(), "ready");
        }
        reader.finish();
    }
}

fn databases_are_written_from_both_sides(lab: &Lab) {
    for world in lab.with_tools() {
        write_databases(world, 20);
    }
}

/// Takes a minute on a fast host.
pub(crate) fn databases_are_written_for_a_minute(lab: &Lab) {
    for world in lab.with_tools() {
        write_databases(world, 400);
    }
}

/// Adds `rows` rows to each of two databases from host and machine at once.
fn write_databases(world: &World, rows: u32) {
    for journal in ["DELETE", "WAL"] {
        let fixture = Fixture::new(world, &format!("database-{journal}-{rows}"));
        let add = fixture.line(&format!("add {journal} database {rows}"));
        let mut in_machine: Vec<Child> = (0..2)
            .map(|_| fixture.in_machine(&add).spawn().unwrap())
            .collect();
        let mut on_host = fixture.on_host(&add).spawn().unwrap();
        assert!(on_host.wait().unwrap().success());
        for writer in &mut in_machine {
            assert!(writer.wait().unwrap().success());
        }
        let expected = format!("{0} {0} ok\n", 3 * rows);
        assert_eq!(fixture.locker_in_machine("count database"), expected);
        assert_eq!(fixture.locker_on_host("count database"), expected);
    }
}

fn a_database_with_a_log_is_used_by_one_side_at_a_time(lab: &Lab) {
    for world in lab.with_tools() {
        let fixture = Fixture::new(world, "log");
        let directory = fixture.directory.display().to_string();
        let prepare = format!(
            "cd {directory} && sqlite3 database 'PRAGMA journal_mode = WAL; CREATE TABLE t (x)'"
        );
        assert_eq!(stdout(fixture.in_machine(&prepare)), "wal\n");
        let open = "import sqlite3, sys; c = sqlite3.connect('database', timeout=0.2, isolation_level=None); c.execute('INSERT INTO t VALUES (1)'); print('open', flush=True); sys.stdin.read()";
        let open = format!("cd {directory} && exec python3 -c \"{open}\"");
        let locked = |mut command: Command| {
            let outcome = Outcome::from(command.output().unwrap());
            assert!(outcome.stderr.contains("database is locked"), "{outcome:?}");
        };
        let on_host = Running::start(fixture.on_host(&open), "open");
        locked(fixture.in_machine(&open));
        on_host.finish();
        let in_machine = Running::start(fixture.in_machine(&open), "open");
        // Other processes of the same side may use it.
        Running::start(fixture.in_machine(&open), "open").finish();
        locked(fixture.on_host(&open));
        in_machine.finish();
        let count = format!("cd {directory} && sqlite3 database 'SELECT count(*) FROM t'");
        assert_eq!(stdout(fixture.in_machine(&count)), "3\n");
        eventually("the database is free for the host", || {
            Outcome::from(fixture.on_host(&open).output().unwrap()).code == Some(0)
        });
    }
}
