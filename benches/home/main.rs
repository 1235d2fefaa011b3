//! Compares the shared home with 9p in the same virtual machine, with the machine's own disk and
//! with the directory on the host.
//!
//! `cargo bench` prints a table of seconds. `ROUNDS` is the number of rounds (5), `FILES` that of
//! the files (5000). Times are taken in the machine, so that starting a command does not count.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use container_benches::{host, rounds};
use end_to_end::{Lab, Outcome, World, our_kernel};

/// What is measured: a name and a shell line, which runs in an empty directory at first, and finds
/// what the lines before it have left. `COLD` stands for dropping caches.
const WORK: [(&str, &str); 9] = [
    ("unpack", "tar -xf $ARCHIVE"),
    ("`git status`, cold", "COLD git -C tree status"),
    ("`git status`, again", "git -C tree status"),
    ("`ls -lR`, cold", "COLD ls -lR tree"),
    (
        "read all files, cold",
        "COLD find tree -type f -exec cat {} +",
    ),
    (
        "write 200 MB",
        "dd if=/dev/zero of=big bs=1M count=200 conv=fsync",
    ),
    ("read 200 MB, cold", "COLD cat big"),
    (
        "append 2,000 lines",
        "for i in $(seq 2000); do echo $i >> lines; done",
    ),
    ("`rm -r`", "rm -r tree big lines"),
];

fn main() {
    let files = std::env::var("FILES").map_or(5000, |files| files.parse().unwrap());
    let lab = Lab::default();
    let world = World::for_root();
    add_9p(&world);
    let image = lab.image("debian-tools:12");
    let kernel = our_kernel().display().to_string();
    world.create(&image, "dev", &["--kernel", &kernel]);
    let shared = world.home().join("shared");
    fs::create_dir(&shared).unwrap();
    world.inside("dev", "mkdir -p /nine /disk && mount -t 9p -o trans=virtio,version=9p2000.L,msize=1048576,cache=none nine /nine");
    let archive = world.home().join("archive.tar").display().to_string();
    on_host(&world, &make_archive(files, &archive));
    world.inside("dev", &format!("cp {archive} /archive.tar"));
    println!("{}, {files} files\n", host());
    println!("| work | shared home | 9p | machine's disk | host |");
    println!("|---|---:|---:|---:|---:|");
    let places = [
        shared.display().to_string(),
        "/nine".to_owned(),
        "/disk".to_owned(),
    ];
    let mut times = vec![[const { Vec::new() }; 4]; WORK.len()];
    for _ in 0..rounds() {
        for (row, (_, line)) in times.iter_mut().zip(WORK) {
            for (place, times) in places.iter().zip(row.iter_mut()) {
                let line = timed(line, place, "/archive.tar");
                times.push(world.inside("dev", &line).trim().parse().unwrap());
            }
            let directory = world.path("on-host");
            fs::create_dir_all(&directory).unwrap();
            let line = timed(line, &directory.display().to_string(), &archive);
            row[3].push(on_host(&world, &line).trim().parse().unwrap());
        }
    }
    for ((name, _), row) in WORK.iter().zip(&mut times) {
        let cells: Vec<String> = row.iter_mut().map(|times| median(times)).collect();
        println!("| {name} | {} |", cells.join(" | "));
    }
}

/// Returns a shell line that does the work and prints the nanoseconds it took.
fn timed(line: &str, place: &str, archive: &str) -> String {
    let (cold, line) = match line.strip_prefix("COLD ") {
        Some(line) => ("sync; echo 3 > /proc/sys/vm/drop_caches;", line),
        None => ("", line),
    };
    format!(
        "cd {place} && ARCHIVE={archive} && {cold} begin=$(date +%s%N) && ({line}) > /dev/null 2>&1 && echo $(($(date +%s%N) - begin))"
    )
}

/// Returns a shell line that archives a git repository with `files` files.
fn make_archive(files: u32, archive: &str) -> String {
    format!(
        "mkdir tree && cd tree && git init -q && for i in $(seq {files}); do d=d$((i % 100)); mkdir -p $d && echo contents of $i > $d/f$i; done && git add -A && git -c user.name=a -c user.email=a@b commit -q -m all && tar -C .. -cf {archive} tree && rm -r ../tree"
    )
}

fn median(times: &mut [u64]) -> String {
    times.sort_unstable();
    let nanoseconds = times[times.len() / 2];
    format!("{:.2}", nanoseconds as f64 / 1e9)
}

fn on_host(world: &World, line: &str) -> String {
    let mut command = world.command(Path::new("/bin/sh"));
    let outcome = Outcome::from(command.args(["-c", line]).output().unwrap());
    assert_eq!(outcome.code, Some(0), "{line}: {outcome:?}");
    outcome.stdout
}

/// Makes machines of a world share a directory by 9p too, as `nine`.
fn add_9p(world: &World) {
    let directory = world.path("nine");
    fs::create_dir(&directory).unwrap();
    let program = world.path("engine");
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *-name*) set -- \"$@\" -fsdev local,id=nine,path={},security_model=none -device virtio-9p-pci,fsdev=nine,mount_tag=nine;; esac\nexec qemu-system-x86_64 \"$@\"\n",
        directory.display()
    );
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    world.configure(&format!("[engine]\nprogram = \"{}\"\n", program.display()));
}
