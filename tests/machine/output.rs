//! What people see: progress, tables, mistakes, completion, manual pages.

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Command, Stdio},
};

use end_to_end::{Lab, Outcome, Terminal, World};

crate::tests![
    progress_is_plain_lines_where_there_is_no_terminal,
    progress_can_be_left_out,
    a_moving_line_leaves_nothing_behind,
    without_colours_progress_is_plain_lines_on_a_terminal_too,
    an_interrupted_create_leaves_the_terminal_clean,
    a_failed_create_leaves_its_error_only,
    a_table_is_coloured_on_a_terminal_only,
    machines_are_filtered,
    machines_are_printed_as_a_template_says,
    a_wrong_command_line_is_told_apart_from_a_failure,
    variables_are_read_with_care,
    debugging_tells_what_happens,
    bash_completes,
    completing_starts_nothing_and_says_nothing_wrong,
    other_shells_accept_their_scripts,
    every_verb_has_a_manual_page,
];

/// A world without machines whose images are fetched already.
fn with_image(lab: &Lab) -> (World, String) {
    (World::of_root(), lab.image("busybox:1"))
}

fn create<'a>(image: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["create", image, "--name", "dev", "--no-boot"], more].concat()
}

fn progress_is_plain_lines_where_there_is_no_terminal(lab: &Lab) {
    let (world, image) = with_image(lab);
    let outcome = world.run(&create(&image, &[]));
    assert_eq!((outcome.code, &*outcome.stdout), (Some(0), "dev\n"));
    assert!(!outcome.stderr.contains(['\x1b', '\r']), "{outcome:?}");
    let lines: Vec<&str> = outcome.stderr.lines().collect();
    let said: Vec<&str> = lines
        .iter()
        .map(|line| line.split_once("] ").unwrap().1)
        .collect();
    assert_eq!(said[0], "fetching image");
    assert!(said[1].starts_with("fetching image: done in "), "{said:?}");
    assert!(
        said[1].contains("layer") && said[1].contains("iB"),
        "{said:?}"
    );
    assert_eq!(said[2], "unpacking image");
    assert!(said[3].starts_with("unpacking image: done in "), "{said:?}");
    assert_eq!(said.len(), 4, "{said:?}");
}

fn progress_can_be_left_out(lab: &Lab) {
    let (world, image) = with_image(lab);
    let outcome = world.run(&create(&image, &["--progress", "none"]));
    assert_eq!((&*outcome.stdout, &*outcome.stderr), ("dev\n", ""));
}

fn a_moving_line_leaves_nothing_behind(lab: &Lab) {
    for (mode, columns) in [("auto", 80), ("color", 80), ("ansi", 80), ("color", 16)] {
        let (world, image) = with_image(lab);
        let create = world.machine(&create(&image, &["--progress", mode]));
        let mut terminal = Terminal::start(&create, 24, columns);
        terminal.expect("fetch");
        let rows = terminal.screen().rows(0, columns);
        let used = rows.filter(|row| !row.is_empty()).count();
        assert!(
            used <= 1,
            "{mode} {columns}: {}",
            terminal.screen().contents()
        );
        let (code, screen) = terminal.end_with_screen();
        assert_eq!(
            (code, screen.contents().trim_end()),
            (Some(0), "dev"),
            "{mode}"
        );
        assert!(!screen.hide_cursor());
    }
}

fn without_colours_progress_is_plain_lines_on_a_terminal_too(lab: &Lab) {
    let (world, image) = with_image(lab);
    let mut create = world.machine(&create(&image, &[]));
    let (code, screen) = Terminal::start(create.env("NO_COLOR", "1"), 24, 80).end_with_screen();
    assert_eq!(code, Some(0));
    let contents = screen.contents();
    assert!(
        contents.contains("] fetching image: done in "),
        "{contents}"
    );
    assert!(contents.trim_end().ends_with("\ndev"), "{contents}");
}

/// A registry that takes connections and says nothing: the create waits for as long as it is let.
fn an_interrupted_create_leaves_the_terminal_clean(_: &Lab) {
    let world = World::of_root();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let image = format!("{}/debian:12", silent.local_addr().unwrap());
    for columns in [80, 16] {
        let mut terminal = Terminal::start(&world.machine(&create(&image, &[])), 24, columns);
        terminal.expect("fetch");
        terminal.press("\x03");
        let (code, screen) = terminal.end_with_screen();
        assert_eq!(code, Some(130));
        let contents = screen.contents();
        assert_eq!(contents.trim(), "Given up: nothing is kept of the machine.");
        assert!(!screen.hide_cursor());
    }
}

fn a_failed_create_leaves_its_error_only(lab: &Lab) {
    let world = World::of_root();
    let image = lab.image("no-such-image:1");
    let (code, screen) =
        Terminal::start(&world.machine(&create(&image, &[])), 24, 80).end_with_screen();
    assert_eq!(code, Some(1));
    let contents = screen.contents();
    assert!(contents.starts_with("Error: "), "{contents}");
    assert!(!contents.contains("fetching image"), "{contents}");
}

fn a_table_is_coloured_on_a_terminal_only(lab: &Lab) {
    let world = lab.unbooted();
    let plain = world.stdout(&["ls"]);
    assert!(!plain.contains('\x1b'), "{plain}");
    assert!(plain.contains("  1.0 GiB  "), "{plain}");
    let on_terminal = |command: &Command| {
        let (_, screen) = Terminal::start(command, 24, 120).end_with_screen();
        assert_eq!(screen.contents().trim(), plain.trim());
        screen.cell(0, 0).unwrap().bold()
    };
    let mut list = world.machine(&["ls"]);
    assert!(on_terminal(&list));
    assert!(!on_terminal(list.env("NO_COLOR", "1")));
}

fn machines_are_filtered(lab: &Lab) {
    let world = lab.unbooted();
    let list = |filters: &[&str]| {
        let filters = filters.iter().flat_map(|filter| ["--filter", filter]);
        let arguments: Vec<&str> = ["ls", "-q"].into_iter().chain(filters).collect();
        world.stdout(&arguments)
    };
    assert_eq!(list(&[]), "one\ntwo\n");
    assert_eq!(list(&["default=true"]), "one\n");
    assert_eq!(list(&["id=*o"]), "two\n");
    assert_eq!(list(&["image=busybox", "status=stopped"]), "one\ntwo\n");
    assert_eq!(list(&["status=running"]), "");
    let wrong = world.run(&["ls", "--filter", "state=x"]);
    assert_eq!(wrong.code, Some(2));
    assert!(
        wrong.stderr.contains("id, name, image, status"),
        "{wrong:?}"
    );
}

fn machines_are_printed_as_a_template_says(lab: &Lab) {
    let world = lab.unbooted();
    let listed = world.stdout(&["ls", "--format", "{{ id }} {{.status}} {{ memory | size }}"]);
    assert_eq!(listed, "one stopped 1.0 GiB\ntwo stopped 1.0 GiB\n");
    let told = world.stdout(&[
        "inspect",
        "--format",
        "{{.image.reference}} <{{ ipAddress }}>",
    ]);
    assert_eq!(told, format!("{} <>\n", lab.image("busybox:1")));
    for wrong in ["{{ nmae }}", "{{ id", "yaml"] {
        let outcome = world.run(&["ls", "--format", wrong]);
        assert_eq!(
            (outcome.code, &*outcome.stdout),
            (Some(2), ""),
            "{outcome:?}"
        );
        assert!(outcome.stderr.starts_with("Error: "), "{outcome:?}");
    }
}

fn a_wrong_command_line_is_told_apart_from_a_failure(lab: &Lab) {
    let world = lab.unbooted();
    let wrong = world.run(&["create", "x", "--cpus", "0"]);
    assert_eq!((wrong.code, &*wrong.stdout), (Some(2), ""));
    assert!(wrong.stderr.starts_with("Error: "), "{wrong:?}");
    assert!(wrong.stderr.contains("1 CPU at least"), "{wrong:?}");
    let failed = world.run(&["inspect", "none"]);
    assert_eq!(failed.code, Some(1));
    let set = world.error(&["set", "cpus=0"]);
    assert!(set.contains("1 CPU at least"), "{set}");
    let help = world.run(&["create", "--help"]);
    assert_eq!((help.code, &*help.stderr), (Some(0), ""));
}

fn variables_are_read_with_care(lab: &Lab) {
    let world = lab.unbooted();
    let file = world.path("settings.env");
    fs::write(&file, "# ours\nA=1\nB = 2\n").unwrap();
    let error = world.error(&["run", "--env-file", file.to_str().unwrap(), "true"]);
    assert!(error.contains("settings.env, line 3"), "{error}");
    assert!(world.is_stopped("one"), "it is refused before a boot");
    let world = lab.root();
    fs::write(&file, "export A=two words\nB=\"2\"\n").unwrap();
    let printed = world.stdout(&[
        "run",
        "--env-file",
        file.to_str().unwrap(),
        "--",
        "echo $A $B",
    ]);
    assert_eq!(printed, "two words \"2\"\n");
    let project = world.home().join("project/src");
    fs::create_dir_all(&project).unwrap();
    let mut pwd = world.machine(&["run", "-w", "src", "pwd"]);
    let inside = Outcome::from(pwd.current_dir(project.parent().unwrap()).output().unwrap());
    assert_eq!(inside.stdout.trim_end(), project.to_str().unwrap());
    let outside = Outcome::from(pwd.current_dir("/usr").output().unwrap());
    assert!(outside.error().contains("absolute path"), "{outside:?}");
}

fn debugging_tells_what_happens(lab: &Lab) {
    let world = lab.unbooted();
    for arguments in [["--debug", "machine", "ls"], ["machine", "ls", "--debug"]] {
        let mut list = world.command_of(&world.program());
        let outcome = Outcome::from(list.args(arguments).output().unwrap());
        assert_eq!(outcome.stdout, world.stdout(&["ls"]));
        let data = world.path("data/container");
        assert!(
            outcome.stderr.contains(data.to_str().unwrap()),
            "{outcome:?}"
        );
        assert!(outcome.stderr.contains("GET /v1/machines"), "{outcome:?}");
        assert!(!outcome.stderr.contains('\x1b'), "{outcome:?}");
    }
}

/// A person in bash, with the completion that is installed.
fn bash_completes(lab: &Lab) {
    let world = lab.unbooted();
    let mut bash = world.command_of(Path::new("/bin/bash"));
    let programs = world.path("usr/bin");
    bash.args(["--norc", "--noprofile", "-i"])
        .env("PATH", format!("{}:/usr/bin:/bin", programs.display()));
    let mut terminal = Terminal::start(&bash, 24, 200);
    let script = world.path("usr/share/bash-completion/completions/container");
    terminal.press(&format!("PS1='> '; . {}\r", script.display()));
    for (typed, completed) in [
        ("container mach", "container machine "),
        ("container machine insp", "container machine inspect "),
        ("container machine rm o", "container machine rm one "),
        ("container m run -n t", "container m run -n two "),
        ("container m run --name=t", "container m run --name=two "),
        ("container m ls --filter status=ru", "status=running "),
        ("container m set -n one home-mount=n", "home-mount=none "),
        ("container m set mem", "container m set memory="),
        ("container m set di", "container m set disk="),
        ("container m create x --progress pl", "--progress plain "),
        ("container completion z", "container completion zsh "),
    ] {
        terminal.press(&format!("{typed}\t"));
        terminal.expect(completed);
        // What is there is thrown away.
        terminal.press("\x15");
    }
    terminal.press("PATH=/usr/bin:/bin; clear\r");
    terminal.press("container machine \t\t\x15echo nothing wr''ong\r");
    terminal.expect("nothing wrong");
    let screen = terminal.screen().contents();
    assert!(!screen.contains("not found"), "{screen}");
    terminal.press("exit\r");
    assert_eq!(terminal.end(), Some(0));
}

fn completing_starts_nothing_and_says_nothing_wrong(_: &Lab) {
    let world = World::of_root();
    fs::create_dir_all(world.path("data/container/machines/sleepy")).unwrap();
    let asked = |world: &World| {
        let mut asked = world.command_of(&world.program());
        asked
            .env("CONTAINER_COMPLETE", "bash")
            .env("_CLAP_COMPLETE_INDEX", "3")
            .args(["--", "container", "machine", "stop", "s"]);
        Outcome::from(asked.output().unwrap())
    };
    let outcome = asked(&world);
    assert_eq!((&*outcome.stdout, &*outcome.stderr), ("sleepy", ""));
    assert!(world.processes("service").is_empty());
    let machines = world.path("data/container/machines");
    fs::remove_dir_all(&machines).unwrap();
    fs::write(&machines, "no directory").unwrap();
    let outcome = asked(&world);
    assert_eq!((&*outcome.stdout, &*outcome.stderr), ("", ""));
    fs::remove_file(&machines).unwrap();
}

/// Those that are there: neither is needed for anything else.
fn other_shells_accept_their_scripts(lab: &Lab) {
    let share = lab.unbooted().path("usr/share");
    for (shell, script) in [
        ("bash", "bash-completion/completions/container"),
        ("zsh", "zsh/site-functions/_container"),
        ("fish", "fish/vendor_completions.d/container.fish"),
    ] {
        let script = share.join(script);
        let text = fs::read_to_string(&script).unwrap();
        assert!(text.contains("CONTAINER_COMPLETE"), "{text}");
        assert!(!text.contains("/target/"), "{text}");
        let checked = Command::new(shell)
            .arg("-n")
            .arg(&script)
            .stdin(Stdio::null())
            .output();
        if let Ok(checked) = checked {
            let checked = Outcome::from(checked);
            assert_eq!((checked.code, &*checked.stderr), (Some(0), ""), "{shell}");
        }
    }
}

fn every_verb_has_a_manual_page(lab: &Lab) {
    let world = lab.unbooted();
    let help = world.stdout(&["--help"]);
    let commands = help.split_once("Commands:\n").unwrap().1;
    let commands = commands.split_once("\n\n").unwrap().0;
    let verbs = commands.lines().filter_map(|line| {
        let verb = line.strip_prefix("  ")?.split(' ').next()?;
        (!verb.is_empty() && verb != "help").then_some(verb)
    });
    let mut seen = 0;
    for verb in verbs {
        let page = format!("usr/share/man/man1/container-machine-{verb}.1");
        let text = fs::read_to_string(world.path(&page)).unwrap();
        assert!(text.contains(".SH EXAMPLES"), "{page}: {text}");
        seen += 1;
    }
    assert!(seen >= 9, "{help}");
}
