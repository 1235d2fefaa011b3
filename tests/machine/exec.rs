//! Programs without a shell: arguments, their encoding and length, exit codes.

use std::{ffi::OsStr, fs, os::unix::ffi::OsStrExt, os::unix::fs::chown, process::Stdio};

use end_to_end::{Lab, Outcome, World};

crate::declare::tests![
    arguments_are_passed_unchanged,
    text_that_is_not_utf_8_is_passed_unchanged,
    long_command_lines_work,
    exit_codes_distinguish_failures,
    programs_run_as_run_does,
];

fn arguments_are_passed_unchanged(lab: &Lab) {
    let world = lab.user();
    let words = ["a  b", "$HOME", "it's", "*", "", "x\ny", "--help", "-n"];
    let arguments = [&["exec", "-n", "dev", "--", "printf", "<%s>"][..], &words].concat();
    let expected: String = words.iter().map(|word| format!("<{word}>")).collect();
    assert_eq!(world.stdout(&arguments), expected);
    assert_eq!(
        world.stdout(&["exec", "-n", "dev", "sh", "-c", "echo one; echo $0", "two"]),
        "one\ntwo\n"
    );
}

fn text_that_is_not_utf_8_is_passed_unchanged(lab: &Lab) {
    let world = lab.user();
    let user = world.user().unwrap();
    let odd = OsStr::from_bytes(b"odd-\xff\xfe");
    let directory = world.home().join(odd);
    fs::create_dir_all(&directory).unwrap();
    chown(&directory, Some(user.uid), Some(user.gid)).unwrap();
    let printed = |verb: &str, more: &[&OsStr]| {
        let mut command = world.machine(&[verb, "-n", "dev"]);
        let output = command.args(more).current_dir(&directory).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert_eq!(output.stderr, b"", "{output:?}");
        output.stdout
    };
    let text = OsStr::new;
    let variable = OsStr::from_bytes(b"ODD=\xff$\xfe");
    let program = [
        text("-e"),
        variable,
        text("--"),
        text("printenv"),
        text("ODD"),
    ];
    assert_eq!(printed("exec", &program), b"\xff$\xfe\n");
    assert_eq!(
        printed("exec", &[text("printf"), text("%s"), odd]),
        odd.as_bytes()
    );
    assert_eq!(printed("run", &[text("printf %s"), odd]), odd.as_bytes());
    let line = b"printf %s \xe4 | od -An -tx1";
    assert_eq!(printed("run", &[OsStr::from_bytes(line)]), b" e4\n");
    let path = [directory.as_os_str().as_bytes(), b"\n"].concat();
    assert_eq!(printed("exec", &[text("pwd")]), path);
    let elsewhere = [text("-w"), directory.as_os_str(), text("pwd")];
    assert_eq!(printed("run", &elsewhere), path);
}

/// Linux allows 128 KiB for an argument, and 2 MiB for all of them.
fn long_command_lines_work(lab: &Lab) {
    let world = lab.user();
    let numbers: Vec<String> = (1..=30_000).map(|number| number.to_string()).collect();
    let output = |verb: &str, words: &[String]| {
        let mut command = world.machine(&[verb, "-n", "dev", "--"]);
        Outcome::from(command.args(words).output().unwrap())
    };
    let expected = numbers.join(" ") + "\n";
    for verb in ["run", "exec"] {
        let words = [&["echo".to_owned()], &numbers[..]].concat();
        let outcome = output(verb, &words);
        assert!(outcome.stdout == expected, "{verb}: {}", outcome.stderr);
    }
    let longer: Vec<String> = (0..15).map(|_| "x".repeat(100_000)).collect();
    let script = "echo $# ${#1}; exit 7".to_owned();
    let words = ["sh".to_owned(), "-c".to_owned(), script, "sh".to_owned()];
    let outcome = output("exec", &[&words[..], &longer].concat());
    assert_eq!((outcome.code, &*outcome.stdout), (Some(7), "15 100000\n"));
    // The shell reads the line and standard input independently.
    let line = format!("cat; echo {} | wc -c; exit 7", longer.join(" "));
    let mut run = world.machine(&["run", "-n", "dev", "--"]);
    for word in line.split(' ') {
        run.arg(word);
    }
    let run = run.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut run = run.spawn().unwrap();
    std::io::Write::write_all(&mut run.stdin.take().unwrap(), b"input\n").unwrap();
    let outcome = Outcome::from(run.wait_with_output().unwrap());
    assert_eq!(
        (outcome.code, &*outcome.stdout),
        (Some(7), "input\n1500015\n")
    );
    // The kernel refuses arguments and variables of 3 MB together.
    let variables: Vec<String> = (0..15).map(|n| format!("V{n}={}", longer[0])).collect();
    let file = world.path("variables");
    std::fs::write(&file, variables.join("\n")).unwrap();
    let file = file.display().to_string();
    let mut refused = world.machine(&["exec", "-n", "dev", "--env-file", &file, "--", "true"]);
    let outcome = Outcome::from(refused.args(&longer).output().unwrap());
    assert_eq!(outcome.code, Some(126), "{}", outcome.stderr);
    let error = &outcome.stderr;
    assert!(error.contains("Argument list too long"), "{error}");
}

fn exit_codes_distinguish_failures(lab: &Lab) {
    let world = lab.root();
    let exec = |words: &[&str]| world.run(&[&["exec", "-n", "dev", "--"], words].concat());
    for code in ["0", "1", "42", "125", "126", "127", "255"] {
        let outcome = exec(&["sh", "-c", &format!("exit {code}")]);
        assert_eq!(outcome.code, code.parse().ok(), "{outcome:?}");
        assert_eq!(outcome.stderr, "");
    }
    assert_eq!(exec(&["sh", "-c", "kill -9 $$"]).code, Some(137));
    world.inside(
        "dev",
        "printf 'exit 3\\n' > /tmp/plain; printf '#!/no/shell\\n' > /tmp/lost; chmod +x /tmp/lost",
    );
    for (program, code, words) in [
        ("no-such-program", 127, "not found"),
        ("/no/such/program", 127, "not found"),
        ("/tmp/plain", 126, "ermission denied"),
        ("/tmp/lost", 126, "interpreter"),
        ("/etc", 126, "ermission denied"),
    ] {
        let outcome = exec(&[program]);
        assert_eq!(outcome.code, Some(code), "{outcome:?}");
        assert!(outcome.stderr.starts_with("Error: "), "{outcome:?}");
        assert!(outcome.stderr.contains(words), "{outcome:?}");
        assert!(outcome.stderr.contains(program), "{outcome:?}");
    }
    for refused in [
        &["exec", "-n", "none", "true"][..],
        &["run", "-n", "none", "true"],
        &["exec", "-n", "dev"],
        &["run", "--no-such-option"],
        &["exec", "-n", "dev", "-u", "no-such-user", "true"],
        &["exec", "-n", "dev", "-w", "/no/such/directory", "true"],
        &["run", "-n", "dev", "--env-file", "/no/such/file", "true"],
    ] {
        let outcome = world.run(refused);
        assert_eq!(outcome.code, Some(125), "{refused:?}: {outcome:?}");
        assert!(outcome.stderr.starts_with("Error: "), "{outcome:?}");
    }
}

fn programs_run_as_run_does(lab: &Lab) {
    let world = lab.user();
    let user = world.user().unwrap();
    let exec = |options: &[&str], words: &[&str]| {
        world.stdout(&[&["exec", "-n", "dev"], options, &["--"], words].concat())
    };
    assert_eq!(exec(&[], &["id", "-un"]), format!("{}\n", user.name));
    assert_eq!(exec(&["--root"], &["id", "-u"]), "0\n");
    assert_eq!(exec(&["-u", "daemon:adm"], &["id", "-gn"]), "adm\n");
    assert_eq!(exec(&["-w", "/var"], &["pwd"]), "/var\n");
    assert_eq!(exec(&["-e", "A=b c"], &["printenv", "A"]), "b c\n");
    assert_eq!(exec(&["-d"], &["touch", "by-exec"]), "dev\n");
    appears(world, "by-exec");
    let mut terminal =
        end_to_end::Terminal::start(&world.machine(&["exec", "-t", "-n", "dev", "tty"]), 24, 80);
    terminal.expect("/dev/pts/");
    assert_eq!(terminal.end(), Some(0));
}

fn appears(world: &World, name: &str) {
    end_to_end::eventually("the file appears", || world.home().join(name).exists());
}
