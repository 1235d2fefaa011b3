//! Environment of commands: the image's variables, locale, time zone, terminal, limits, shells.

use std::{path::Path, process::Command};

use end_to_end::{Author, Lab, Outcome, World};

crate::declare::tests![
    debian_commands_get_the_images_environment,
    busybox_commands_get_the_images_environment,
    locale_and_time_zone_are_handed_on,
    terminal_of_the_host_is_known,
    limits_have_a_minimum,
];

/// Environment of an image with programs of its own, as of golang or conda.
const ENVIRONMENT: [&str; 3] = ["PATH=/opt/tool/bin:/usr/bin:/bin", "FOO=bar", "HOME=/root"];

/// A program in a directory of the image's `PATH`.
const TOOL: (&str, &str) = ("opt/tool/bin/tool", "#!/bin/sh\necho tool $FOO\n");

/// Runs a login shell of the machine's user with these lines as its input.
fn login_shell(world: &World, machine: &str, options: &[&str], lines: &str) -> Outcome {
    let script = world.path("script");
    std::fs::write(&script, lines).unwrap();
    let mut shell = world.machine(&[&["run", "-n", machine], options].concat());
    let shell = shell.stdin(std::fs::File::open(&script).unwrap());
    shell.output().unwrap().into()
}

fn debian_commands_get_the_images_environment(lab: &Lab) {
    let author = Author::with(&lab.image("debian-plain:12"), &[TOOL], &ENVIRONMENT);
    let world = World::for_user();
    let home = format!("{}\n", world.home().display());
    world.create(&author.image(), "go", &[]);
    let path = "/opt/tool/bin:/usr/bin:/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/sbin\n";
    assert_eq!(world.inside("go", "tool; echo $FOO"), "tool bar\nbar\n");
    assert_eq!(world.inside("go", "echo $PATH"), path);
    assert_eq!(world.inside("go", "echo $HOME"), home);
    assert_eq!(world.stdout(&["exec", "-n", "go", "tool"]), "tool bar\n");
    let shell = login_shell(&world, "go", &[], "tool; shopt login_shell; echo $0\n");
    assert_eq!(
        shell.stdout, "tool bar\nlogin_shell    \ton\n-bash\n",
        "{shell:?}"
    );
    for line in ["bash -lc tool", "dash -lc tool", "sh -l -c tool"] {
        assert_eq!(world.inside("go", line), "tool bar\n", "{line}");
    }

    // The machine's own variables precede the image's, and requested ones precede both.
    let as_root = ["run", "-n", "go", "--root"];
    let lines = "printf '# ours\\nexport FOO=\"of machine\"\\nBAR=2\\nPATH=/opt/own:/bin\\n' > /etc/environment";
    world.stdout(&[&as_root[..], &[lines]].concat());
    assert_eq!(world.inside("go", "echo $FOO,$BAR"), "of machine,2\n");
    let asked = world.stdout(&["run", "-n", "go", "-e", "FOO=mine", "echo $FOO; echo $PATH"]);
    let path = "/opt/tool/bin:/usr/bin:/bin:/opt/own:/usr/local/sbin";
    assert!(asked.starts_with(&format!("mine\n{path}")), "{asked}");

    // limits.conf applies without PAM.
    let lines = "printf '* hard nproc 4321\\n* - nofile 600000\\n* - core 0\\n' > /etc/security/limits.d/own.conf";
    world.stdout(&[&as_root[..], &[lines]].concat());
    let limits = "ulimit -Hu; ulimit -Sn; ulimit -Hn; ulimit -c";
    assert_eq!(world.inside("go", limits), "4321\n600000\n600000\n0\n");
    let lines = "echo '* - nofile 10' > /etc/security/limits.d/own.conf";
    world.stdout(&[&as_root[..], &[lines]].concat());
    assert_eq!(
        world.inside("go", "ulimit -Sn; ulimit -Hn"),
        "1024\n524288\n"
    );

    // A shell that was removed, and one that does not work.
    for shell in ["/bin/zsh", "/opt/tool/broken"] {
        let line = format!(
            "printf '#!/none\\n' > /opt/tool/broken; chmod 755 /opt/tool/broken; \
             usermod -s {shell} {0} 2>/dev/null || sed -i 's|^\\({0}:.*:\\).*|\\1{shell}|' /etc/passwd",
            world.user().unwrap().name
        );
        world.stdout(&[&as_root[..], &[&line]].concat());
        let outcome = world.run(&["run", "-n", "go", "echo works; echo $SHELL; exit 7"]);
        assert_eq!(outcome.code, Some(7), "{outcome:?}");
        assert_eq!(outcome.stdout, "works\n/bin/bash\n");
        let notes: Vec<&str> = outcome.stderr.lines().collect();
        assert_eq!(notes.len(), 1, "{outcome:?}");
        assert!(notes[0].contains(shell), "{outcome:?}");
        assert!(notes[0].contains("/bin/bash"), "{outcome:?}");
        let shell = login_shell(&world, "go", &[], "echo still; echo $0\n");
        assert_eq!(shell.stdout, "still\n-bash\n", "{shell:?}");
    }
}

fn busybox_commands_get_the_images_environment(lab: &Lab) {
    // A profile without a directory of further scripts, as some small images have.
    let files = [
        TOOL,
        ("etc/profile", "export PATH=/bin:/usr/bin\numask 022\n"),
    ];
    let author = Author::with(&lab.image("busybox:1"), &files, &ENVIRONMENT);
    let world = World::for_root();
    world.create(&author.image(), "tiny", &[]);
    assert_eq!(world.inside("tiny", "tool; echo $FOO"), "tool bar\nbar\n");
    let shell = login_shell(&world, "tiny", &[], "tool; echo $0\n");
    assert_eq!(shell.stdout, "tool bar\n-sh\n", "{shell:?}");
    world.stdout(&["restart", "tiny"]);
    let profile = world.inside("tiny", "grep -c zz-container /etc/profile; sh -lc tool");
    assert_eq!(profile, "1\ntool bar\n");
    assert_eq!(
        world.inside("tiny", "ulimit -Sn; ulimit -Hn"),
        "1024\n1048576\n"
    );
    assert_eq!(world.inside("tiny", "echo $LANG"), "C.UTF-8\n");

    // The image has no time zones and no terminals.
    let mut run = world.machine(&["run", "-n", "tiny", "date +%Z; echo $TERM"]);
    run.env("TZ", "Asia/Tokyo").env("TERM", "vt220");
    let outcome = Outcome::from(run.output().unwrap());
    assert_eq!(outcome.stdout, "JST\nvt220\n", "{outcome:?}");
    world.inside("tiny", "test -s /run/container/terminfo/v/vt220");

    // Without a shell, there is no command line.
    world.inside("tiny", "mv /bin/sh /bin/sh-away");
    let outcome = world.run(&["run", "-n", "tiny", "true"]);
    assert_eq!(outcome.code, Some(127), "{outcome:?}");
    assert_eq!(world.stdout(&["exec", "-n", "tiny", "echo", "x"]), "x\n");
}

fn locale_and_time_zone_are_handed_on(lab: &Lab) {
    let world = lab.user();
    let run = |variables: &[(&str, &str)], options: &[&str], line: &str| {
        let mut run = world.machine(&[&["run", "-n", "dev"], options, &[line]].concat());
        let outcome = Outcome::from(run.envs(variables.iter().copied()).output().unwrap());
        assert_eq!(
            (outcome.code, &*outcome.stderr),
            (Some(0), ""),
            "{outcome:?}"
        );
        outcome.stdout
    };
    let show = "echo $LANG,$LC_TIME,$LC_ALL; locale charmap; date +%Z";
    assert_eq!(run(&[], &[], show), "C.UTF-8,,\nUTF-8\nUTC\n");
    assert_eq!(
        run(&[("LANG", "C.UTF-8")], &[], show),
        "C.UTF-8,,\nUTF-8\nUTC\n"
    );
    let plain = run(&[("LANG", "POSIX")], &[], show);
    assert_eq!(plain, "POSIX,,\nANSI_X3.4-1968\nUTC\n");
    let foreign = [
        ("LANG", "ja_JP.UTF-8"),
        ("LC_TIME", "xx_YY"),
        ("LC_ALL", "ja_JP.eucJP"),
        ("TZ", "Asia/Tokyo"),
    ];
    assert_eq!(
        run(&foreign, &[], show),
        "C.UTF-8,C.UTF-8,C.UTF-8\nUTF-8\nJST\n"
    );
    let asked = run(
        &foreign,
        &["-e", "LANG=xx", "-e", "LC_ALL="],
        "echo $LANG,$LC_ALL",
    );
    assert_eq!(asked, "xx,\n", "requested variables are not adapted");
    let colours = run(
        &[("COLORTERM", "truecolor"), ("OTHER", "x")],
        &[],
        "echo $COLORTERM,$OTHER",
    );
    assert_eq!(colours, "truecolor,\n");
}

fn terminal_of_the_host_is_known(lab: &Lab) {
    let terminfo = lab.user().path("terminfo");
    compile_terminal(&terminfo);
    for world in [lab.user(), lab.root()] {
        let run = |term: &str, line: &str| {
            let mut run = world.machine(&["run", "-n", "dev", line]);
            run.env("TERM", term).env("TERMINFO", &terminfo);
            Outcome::from(run.output().unwrap())
        };
        let line = "echo $TERM ${TERMINFO_DIRS:+with directories}; tput cup 2 3 | od -An -c; tput -T xterm clear > /dev/null";
        let unknown = run("xterm-of-the-test", line);
        let shown = "xterm-of-the-test with directories\n 033   [   3   ;   4   H\n";
        assert_eq!(unknown.stdout, shown, "{unknown:?}");
        assert_eq!((unknown.code, &*unknown.stderr), (Some(0), ""));
        if world.user().is_some() {
            let by_sudo = run("xterm-of-the-test", "sudo tput cup 2 3 | od -An -c");
            assert_eq!(by_sudo.stdout, " 033   [   3   ;   4   H\n", "{by_sudo:?}");
        }
        let known = run("xterm-256color", line);
        let shown = "xterm-256color\n 033   [   3   ;   4   H\n";
        assert_eq!(known.stdout, shown, "{known:?}");
        let nowhere = run("no-such-terminal", "echo $TERM; tput clear > /dev/null");
        assert_eq!(nowhere.stdout, "xterm-256color\n", "{nowhere:?}");
        assert_eq!((nowhere.code, &*nowhere.stderr), (Some(0), ""));
    }
}

/// Compiles the entry of a terminal that no image has.
fn compile_terminal(directory: &Path) {
    let source = directory.with_extension("src");
    std::fs::write(
        &source,
        "xterm-of-the-test|terminal of the test, use=xterm-256color,\n",
    )
    .unwrap();
    let mut tic = Command::new("tic");
    tic.args(["-x", "-o"]).arg(directory).arg(&source);
    assert!(tic.status().unwrap().success());
}

fn limits_have_a_minimum(lab: &Lab) {
    let world = lab.root();
    assert_eq!(
        world.inside("dev", "ulimit -Sn; ulimit -Hn"),
        "1024\n1048576\n"
    );
    let tried = world.inside("dev", "ulimit -n 524288 && ulimit -n");
    assert_eq!(tried, "524288\n");
    let world = lab.user();
    let tried = world.inside("dev", "ulimit -n 524288 && ulimit -n");
    assert_eq!(tried, "524288\n");
}
