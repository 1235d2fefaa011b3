//! A home with many more files than the limit on open files.

use std::{
    fs,
    io::Write,
    os::unix::fs::chown,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use end_to_end::{Lab, World};

crate::declare::tests![more_files_than_the_limit_are_read_and_written];

/// Slow tests, which only `make many-files` runs.
pub(crate) const LONG: &[crate::declare::Test] = &[
    ("many_files::user_has_200_000_files", user_has_200_000_files),
    ("many_files::root_has_200_000_files", root_has_200_000_files),
];

/// Number of files in each directory.
const FILES: usize = 100;

fn more_files_than_the_limit_are_read_and_written(lab: &Lab) {
    let home = Home::fill(World::for_user().with_open_files(2_000), 40);
    home.boot(lab);
    home.assert_limit("2000");
    home.walk_write_and_rename();
    home.remove();
}

fn user_has_200_000_files(lab: &Lab) {
    let home = Home::fill(World::for_user().with_open_files(20_000), 2_000);
    home.commit();
    home.boot(lab);
    home.assert_limit("20000");
    home.assert_unchanged_for_git();
    home.walk_write_and_rename();
    home.clear();
}

fn root_has_200_000_files(lab: &Lab) {
    let home = Home::fill(World::for_root().with_open_files(20_000), 2_000);
    home.commit();
    home.boot(lab);
    home.assert_unchanged_for_git();
    home.walk_write_and_rename();
    home.clear();
}

/// A world with a tree of many files in its home.
struct Home {
    world: World,
    directories: usize,
}

impl Home {
    fn fill(world: World, directories: usize) -> Home {
        let owned = |path: &Path| {
            if let Some(user) = world.user() {
                chown(path, Some(user.uid), Some(user.gid)).unwrap();
            }
        };
        let tree = world.home().join("tree");
        fs::create_dir(&tree).unwrap();
        owned(&tree);
        for directory in 0..directories {
            let directory = tree.join(format!("d{directory}"));
            fs::create_dir(&directory).unwrap();
            owned(&directory);
            for file in 0..FILES {
                let path = directory.join(format!("f{file}"));
                fs::write(&path, format!("contents of {file}\n")).unwrap();
                owned(&path);
            }
        }
        Home { world, directories }
    }

    fn boot(&self, lab: &Lab) {
        self.world
            .create(&lab.image("debian-systemd:12"), "many", &[]);
    }

    /// Commits the tree to a git repository on the host.
    fn commit(&self) {
        let me = ["-c", "user.name=me", "-c", "user.email=me@example.org"];
        for words in [
            &["init", "--quiet"][..],
            &["add", "--all"],
            &[&me[..], &["commit", "--quiet", "--message", "all"]].concat(),
        ] {
            let mut git = self.world.command(Path::new("git"));
            git.args(["-C", "tree"]).args(words);
            assert!(git.status().unwrap().success(), "{words:?}");
        }
    }

    /// Fails unless the file share has this limit on open files.
    fn assert_limit(&self, limit: &str) {
        let share = &self.world.processes("file-share")[0];
        let limits = fs::read_to_string(format!("/proc/{}/limits", share.pid)).unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max open"));
        let fields: Vec<&str> = line.unwrap().split_whitespace().collect();
        assert_eq!(fields[3..5], [limit, limit]);
    }

    /// Runs a shell line at home, which must succeed without error output, and returns its output.
    fn run_without_errors(&self, line: &str) -> String {
        let begin = Instant::now();
        let outcome = self.world.run(&["run", "-n", "many", line]);
        assert_eq!(outcome.code, Some(0), "{line}: {outcome:?}");
        assert_eq!(outcome.stderr, "", "{line}");
        self.report(line, begin.elapsed());
        outcome.stdout
    }

    /// Prints the duration of a step, and the file share's memory and open files.
    fn report(&self, step: &str, duration: Duration) {
        let share = &self.world.processes("file-share")[0];
        let open = fs::read_dir(format!("/proc/{}/fd", share.pid))
            .unwrap()
            .count();
        let memory = share.status("RssAnon").unwrap_or_default();
        let _ = writeln!(
            std::io::stderr(),
            "{:6.1} s, file share {memory}, {open} descriptors: {step}",
            duration.as_secs_f64(),
        );
    }

    fn assert_unchanged_for_git(&self) {
        for _ in 0..2 {
            assert_eq!(
                self.run_without_errors("git -C tree status --porcelain"),
                ""
            );
        }
    }

    fn walk_write_and_rename(&self) {
        let mut files = self.directories * FILES;
        for round in ["once", "twice"] {
            let listed = self.run_without_errors("ls -lR tree > /tmp/all && grep -c ^- /tmp/all");
            assert_eq!(listed, format!("{files}\n"));
            let find = "find tree -path tree/.git -prune -o -type f -print > /tmp/all";
            let found = self.run_without_errors(&format!("{find} && wc -l < /tmp/all"));
            assert_eq!(found, format!("{files}\n"));
            self.run_without_errors(&format!(
                "set -e; for d in tree/d*; do echo contents of {round} > $d/{round}; done"
            ));
            files += self.directories;
            let written = self.world.home().join("tree/d7").join(round);
            let contents = fs::read_to_string(written).unwrap();
            assert_eq!(contents, format!("contents of {round}\n"));

            self.rename_on_the_host(round);
        }
        let grep = "grep -r 'contents of' --exclude-dir=.git tree > /tmp/all";
        let matching = self.run_without_errors(&format!("{grep} && wc -l < /tmp/all"));
        assert_eq!(matching, format!("{files}\n"));
    }

    fn remove(&self) {
        self.run_without_errors("rm -r tree");
        assert!(!self.world.home().join("tree").exists());
    }

    /// Removes the tree on the host. `userdel` would do that too, but holds its lock meanwhile,
    /// which delays other tests.
    fn clear(&self) {
        fs::remove_dir_all(self.world.home().join("tree")).unwrap();
    }

    /// Renames directories and files on the host, and replaces a file by another.
    fn rename_on_the_host(&self, round: &str) {
        let tree = self.world.home().join("tree");
        let rename = |old: &str, new: &str| fs::rename(tree.join(old), tree.join(new)).unwrap();
        rename("d1", &format!("d1-{round}"));
        rename("d2", "d1");
        rename(&format!("d1-{round}"), "d2");
        rename("d3/f1", "d4/f1");
        rename("d5/f1", "d3/f1");
        let new = Command::new("cp")
            .args(["--preserve=ownership", "d6/f1", "d5/f1"])
            .current_dir(&tree)
            .status();
        assert!(new.unwrap().success());
    }
}
