//! Compares the shared home with 9p in the same virtual machine, with the machine's own disk and
//! with the directory on the host.
//!
//! `cargo bench` prints a table of seconds. `ROUNDS` is the number of rounds (5), `FILES` that of
//! the files (20,000; a git working tree has 2.5 times as many). `ROWS` limits the rows to those
//! whose names contain one of its words, which commas separate. Times are taken in the machine, so
//! that starting a command does not count.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout
)]

mod projects;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use container_benches::{host, rounds};
use end_to_end::{Lab, Outcome, World, our_kernel};
use projects::make_projects;

/// What is measured. The shell lines run in a directory that is empty at first, and that has what
/// the lines before have left. `$INPUTS` is a directory on the machine's disk, or the host's.
struct Work {
    name: &'static str,
    /// Runs on the host, if the directory can be reached there.
    prepare: &'static str,
    line: &'static str,
    caches: Caches,
    /// Whether the host has the programs.
    is_for_host: bool,
}

/// What the machine's kernel has cached of the directory before the work.
enum Caches {
    /// What the work before has left, here or in another place of the machine.
    Any,
    /// Nothing.
    Dropped,
    /// What the same work needs.
    Filled,
}

/// Work without preparation.
const PLAIN: Work = Work {
    name: "",
    prepare: "",
    line: "",
    caches: Caches::Any,
    is_for_host: true,
};

const WORK: [Work; 12] = [
    Work {
        name: "untar",
        line: "tar -xf $INPUTS/files.tar",
        ..PLAIN
    },
    Work {
        name: "`ls -lR`, cold",
        line: "ls -lR files",
        caches: Caches::Dropped,
        ..PLAIN
    },
    Work {
        name: "read all files, cold",
        line: "find files -type f -exec cat {} + > /dev/null",
        caches: Caches::Dropped,
        ..PLAIN
    },
    Work {
        name: "`rm -r`",
        line: "rm -r files",
        ..PLAIN
    },
    Work {
        name: "`git status`, cold",
        prepare: "tar -xf $INPUTS/tree.tar && sleep 1 && git -C tree update-index --refresh",
        line: "git -C tree status",
        caches: Caches::Dropped,
        ..PLAIN
    },
    Work {
        name: "`git status`, again",
        line: "git -C tree status",
        caches: Caches::Filled,
        ..PLAIN
    },
    Work {
        name: "`npm ci`",
        prepare: "mkdir app",
        line: "cp $INPUTS/app/package*.json app && cd app && NPM_CI",
        is_for_host: false,
        ..PLAIN
    },
    Work {
        name: "`rm -r node_modules`",
        line: "rm -r app",
        is_for_host: false,
        ..PLAIN
    },
    Work {
        name: "`cargo build`",
        prepare: "cp -r $INPUTS/crate .",
        line: "cd crate && CARGO_BUILD",
        is_for_host: false,
        ..PLAIN
    },
    Work {
        name: "write 200 MB",
        line: "dd if=/dev/zero of=big bs=1M count=200 conv=fsync",
        ..PLAIN
    },
    Work {
        name: "read 200 MB, cold",
        line: "cat big > /dev/null",
        caches: Caches::Dropped,
        ..PLAIN
    },
    Work {
        name: "append 2,000 lines",
        line: "for i in $(seq 2000); do echo $i >> lines; done",
        ..PLAIN
    },
];

impl Work {
    /// Whether most of the time is that of a large program.
    fn runs_compiler(&self) -> bool {
        !self.is_for_host && !self.prepare.is_empty()
    }
}

/// Where the work is done: a directory in the machine and its path on the host, if they exist.
struct Place {
    inside: Option<PathBuf>,
    on_host: Option<PathBuf>,
}

fn main() {
    let files = std::env::var("FILES").map_or(20_000, |files| files.parse().unwrap());
    let rows = std::env::var("ROWS").unwrap_or_default();
    let is_chosen = |work: &&Work| rows.split(',').any(|word| work.name.contains(word));
    let works: Vec<&Work> = WORK.iter().filter(is_chosen).collect();
    let lab = Lab::default();
    let world = World::for_root();
    add_9p(&world);
    let image = lab.image("debian-tools:12");
    let kernel = our_kernel().display().to_string();
    world.create(&image, "dev", &["--kernel", &kernel]);
    world.inside("dev", "mkdir -p /nine /disk /warm-up && mount -t 9p -o trans=virtio,version=9p2000.L,msize=1048576,cache=none nine /nine");
    let shared = world.home().join("shared");
    let on_host = world.path("on-host");
    for directory in [&shared, &on_host] {
        fs::create_dir(directory).unwrap();
    }
    let inputs = world.home().join("inputs");
    fs::create_dir(&inputs).unwrap();
    run_on_host(&world, &inputs, &make_archive("files", files));
    run_on_host(&world, &inputs, &make_repository("tree", files * 5 / 2));
    if works.iter().any(|work| !work.is_for_host) {
        make_projects(&world, &inputs);
    }
    world.inside("dev", &format!("cp -r {} /", inputs.display()));
    println!("{}, {files} files\n", host());
    println!("| work | shared home | 9p | machine's disk | host |");
    println!("|---|---:|---:|---:|---:|");
    let places = [
        Place {
            inside: Some(shared.clone()),
            on_host: Some(shared),
        },
        Place {
            inside: Some("/nine".into()),
            on_host: Some(world.path("nine")),
        },
        Place {
            inside: Some("/disk".into()),
            on_host: None,
        },
        Place {
            inside: None,
            on_host: Some(on_host),
        },
    ];
    let warm_up = Place {
        inside: Some("/warm-up".into()),
        on_host: None,
    };
    let mut times = vec![[const { Vec::new() }; 4]; works.len()];
    for _ in 0..rounds() {
        for (row, work) in times.iter_mut().zip(&works) {
            if work.runs_compiler() {
                // Other work may have displaced its program from the machine's cache, and from the
                // emulator's.
                take(&world, &inputs, &warm_up, work);
                warm_up.run(&world, &inputs, "rm -rf ./*");
            }
            for (place, times) in places.iter().zip(row.iter_mut()) {
                times.extend(take(&world, &inputs, place, work));
            }
        }
        for place in &places {
            place.run(&world, &inputs, "rm -rf ./*");
        }
    }
    for (work, row) in works.iter().zip(&mut times) {
        let cells: Vec<String> = row.iter_mut().map(|times| median(times)).collect();
        println!("| {} | {} |", work.name, cells.join(" | "));
    }
}

impl Place {
    /// Runs a shell line in this place, on the host if possible.
    fn run(&self, world: &World, inputs: &Path, line: &str) -> String {
        match (&self.on_host, &self.inside) {
            (Some(directory), _) => {
                let line = format!("cd {} && {line}", directory.display());
                run_on_host(world, inputs, &line)
            }
            (None, Some(_)) => self.run_inside(world, line),
            (None, None) => unreachable!("a place without a directory"),
        }
    }

    fn run_inside(&self, world: &World, line: &str) -> String {
        let directory = self.inside.as_ref().unwrap().display();
        world.inside("dev", &format!("cd {directory}; INPUTS=/inputs; {line}"))
    }
}

/// Does the work once, and returns the nanoseconds it took. Returns `None` on a host without the
/// programs.
fn take(world: &World, inputs: &Path, place: &Place, work: &Work) -> Option<u64> {
    if place.inside.is_none() && !work.is_for_host {
        return None;
    }
    if !work.prepare.is_empty() {
        place.run(world, inputs, &format!("{} > /dev/null", work.prepare));
    }
    let line = work
        .line
        .replace("NPM_CI", projects::NPM_CI)
        .replace("CARGO_BUILD", projects::CARGO_BUILD);
    let prepare_caches = match work.caches {
        Caches::Any => String::new(),
        Caches::Dropped => "sync; echo 3 > /proc/sys/vm/drop_caches;".to_owned(),
        Caches::Filled => format!("({line}) > $INPUTS/output && sleep 2;"),
    };
    // What the host has changed is cached for long after two seconds.
    let line = format!(
        "sleep 2; {prepare_caches} begin=$(date +%s%N) && ({line}) > $INPUTS/output 2>&1 && echo $(($(date +%s%N) - begin)) || {{ cat $INPUTS/output >&2; exit 1; }}"
    );
    let time = if place.inside.is_some() {
        place.run_inside(world, &line)
    } else {
        place.run(world, inputs, &line)
    };
    let time = time.trim().parse().unwrap();
    eprintln!("{}: {:.2}", work.name, seconds(time));
    Some(time)
}

/// Returns a shell line that archives `files` files.
fn make_archive(name: &str, files: u32) -> String {
    format!(
        "mkdir {name} && cd {name} && for i in $(seq {files}); do d=d$((i % 200)); mkdir -p $d && echo contents of $i > $d/f$i; done && cd .. && tar -cf {name}.tar {name} && rm -r {name}"
    )
}

/// Returns a shell line that archives a git repository with `files` files.
///
/// Its index compares times and sizes only: the numbers of files differ in 9p.
fn make_repository(name: &str, files: u32) -> String {
    let make = make_archive(name, files);
    format!(
        "{make} && tar -xf {name}.tar && cd {name} && git init -q && git config core.checkStat minimal && git config gc.auto 0 && git add -A && git -c user.name=a -c user.email=a@b commit -q -m all && git gc -q && cd .. && tar -cf {name}.tar {name} && rm -r {name}"
    )
}

fn median(times: &mut [u64]) -> String {
    times.sort_unstable();
    match times.get(times.len() / 2) {
        Some(nanoseconds) => format!("{:.2}", seconds(*nanoseconds)),
        None => String::new(),
    }
}

fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

/// Runs a shell line on the host, in the directory of inputs.
fn run_on_host(world: &World, inputs: &Path, line: &str) -> String {
    let mut command = world.command(Path::new("/bin/sh"));
    command.current_dir(inputs).env("INPUTS", inputs);
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
    world.configure(&format!(
        "[engine]\nconfinement = \"none\"\nprogram = \"{}\"\n",
        program.display()
    ));
}
