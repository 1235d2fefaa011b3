//! Output for people: progress, tables, errors, completion, manual pages.

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Command, Stdio},
};

use end_to_end::{Lab, Outcome, Terminal, World};

crate::declare::tests![
    progress_without_a_terminal_is_plain_lines,
    progress_can_be_disabled,
    progress_line_is_removed_at_the_end,
    no_color_makes_progress_plain_lines,
    interrupted_create_cleans_the_terminal,
    failed_create_prints_only_its_error,
    table_is_coloured_only_on_a_terminal,
    machines_are_filtered,
    machines_are_printed_by_a_template,
    usage_errors_and_failures_have_different_exit_codes,
    environment_files_are_validated,
    debug_option_logs_requests,
    bash_completes_commands_and_machines,
    completion_starts_no_service_and_prints_no_errors,
    shells_accept_their_completion_scripts,
    every_verb_has_a_manual_page,
];

/// Returns a world without machines, and an image.
fn with_image(lab: &Lab) -> (World, String) {
    (World::for_root(), lab.image("busybox:1"))
}

fn create<'a>(image: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["create", image, "--name", "dev", "--no-boot"], more].concat()
}

fn progress_without_a_terminal_is_plain_lines(lab: &Lab) {
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

fn progress_can_be_disabled(lab: &Lab) {
    let (world, image) = with_image(lab);
    let outcome = world.run(&create(&image, &["--progress", "none"]));
    assert_eq!((&*outcome.stdout, &*outcome.stderr), ("dev\n", ""));
}

fn progress_line_is_removed_at_the_end(lab: &Lab) {
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

fn no_color_makes_progress_plain_lines(lab: &Lab) {
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

/// The registry accepts connections and never answers, so the create waits until its interruption.
fn interrupted_create_cleans_the_terminal(_: &Lab) {
    let world = World::for_root();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let image = format!("{}/debian:12", silent.local_addr().unwrap());
    for columns in [80, 16] {
        let mut terminal = Terminal::start(&world.machine(&create(&image, &[])), 24, columns);
        terminal.expect("fetch");
        terminal.press("\x03");
        let (code, screen) = terminal.end_with_screen();
        assert_eq!(code, Some(130));
        let contents = screen.contents();
        assert_eq!(contents.trim(), "Cancelled; no machine was created.");
        assert!(!screen.hide_cursor());
    }
}

fn failed_create_prints_only_its_error(lab: &Lab) {
    let world = World::for_root();
    let image = lab.image("no-such-image:1");
    let (code, screen) =
        Terminal::start(&world.machine(&create(&image, &[])), 24, 80).end_with_screen();
    assert_eq!(code, Some(1));
    let contents = screen.contents();
    assert!(contents.starts_with("Error: "), "{contents}");
    assert!(!contents.contains("fetching image"), "{contents}");
}

fn table_is_coloured_only_on_a_terminal(lab: &Lab) {
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

fn machines_are_printed_by_a_template(lab: &Lab) {
    let world = lab.unbooted();
    let listed = world.stdout(&["ls", "--format", "{{ id }} {{.status}} {{ memory | size }}"]);
    assert_eq!(listed, "one stopped 1.0 GiB\ntwo stopped 1.0 GiB\n");
    let printed = world.stdout(&[
        "inspect",
        "--format",
        "{{.image.reference}} <{{ ipAddress }}>",
    ]);
    assert_eq!(printed, format!("{} <>\n", lab.image("busybox:1")));
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

fn usage_errors_and_failures_have_different_exit_codes(lab: &Lab) {
    let world = lab.unbooted();
    let wrong = world.run(&["create", "x", "--cpus", "0"]);
    assert_eq!((wrong.code, &*wrong.stdout), (Some(2), ""));
    assert!(wrong.stderr.starts_with("Error: "), "{wrong:?}");
    assert!(wrong.stderr.contains("at least 1 CPU"), "{wrong:?}");
    let failed = world.run(&["inspect", "none"]);
    assert_eq!(failed.code, Some(1));
    let set = world.error(&["set", "cpus=0"]);
    assert!(set.contains("at least 1 CPU"), "{set}");
    let help = world.run(&["create", "--help"]);
    assert_eq!((help.code, &*help.stderr), (Some(0), ""));
}

fn environment_files_are_validated(lab: &Lab) {
    let world = lab.unbooted();
    let file = world.path("settings.env");
    fs::write(&file, "# ours\nA=1\nB = 2\n").unwrap();
    let error = world.error(&["run", "--env-file", file.to_str().unwrap(), "true"]);
    assert!(error.contains("settings.env, line 3"), "{error}");
    assert!(world.is_stopped("one"), "the file is checked before a boot");
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

fn debug_option_logs_requests(lab: &Lab) {
    let world = lab.unbooted();
    for arguments in [["--debug", "machine", "ls"], ["machine", "ls", "--debug"]] {
        let mut list = world.command(&world.program());
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

/// An interactive bash with the installed completion script.
fn bash_completes_commands_and_machines(lab: &Lab) {
    let world = lab.unbooted();
    let mut bash = world.command(Path::new("/bin/bash"));
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
        // Ctrl-U discards the line.
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

fn completion_starts_no_service_and_prints_no_errors(_: &Lab) {
    let world = World::for_root();
    fs::create_dir_all(world.path("data/container/machines/sleepy")).unwrap();
    let asked = |world: &World| {
        let mut asked = world.command(&world.program());
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

/// Checks only installed shells: zsh and fish are no requirement of the tests.
fn shells_accept_their_completion_scripts(lab: &Lab) {
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
