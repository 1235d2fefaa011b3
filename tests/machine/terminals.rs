//! Interactive shells: size, control keys, jobs, full-screen programs.

use end_to_end::{Lab, Terminal};

crate::declare::tests![
    login_shell_is_interactive,
    terminal_size_follows_the_window,
    control_keys_reach_the_shell_and_its_jobs,
    full_screen_editor_works,
    terminal_can_be_requested,
];

fn shell(lab: &Lab) -> Terminal {
    let mut terminal = Terminal::start(&lab.user().machine(&["run", "-n", "dev"]), 31, 101);
    terminal.expect("$ ");
    terminal
}

fn login_shell_is_interactive(lab: &Lab) {
    let mut terminal = shell(lab);
    terminal.press("shopt -q login_shell && echo log''in\r");
    terminal.expect("login");
    terminal.press("tty; echo $TERM\r");
    terminal.expect("/dev/pts/");
    terminal.expect("xterm");
    terminal.press("exit 5\r");
    assert_eq!(terminal.end(), Some(5));
}

fn terminal_size_follows_the_window(lab: &Lab) {
    let mut terminal = shell(lab);
    terminal.press("stty size\r");
    terminal.expect("31 101");
    terminal.press("trap 'echo now $(stty size)' WINCH\r");
    terminal.expect("$ ");
    terminal.resize(44, 132);
    terminal.press("sleep 1; stty size\r");
    terminal.expect("44 132");
    terminal.press("exit\r");
    assert_eq!(terminal.end(), Some(0));
}

fn control_keys_reach_the_shell_and_its_jobs(lab: &Lab) {
    let mut terminal = shell(lab);
    terminal.press("sleep 98764\r");
    terminal.expect("98764");
    wait_for_job();
    terminal.press("\x03");
    terminal.expect("$ ");
    terminal.press("echo interrupted $?\r");
    terminal.expect("interrupted 130");
    terminal.press("sleep 98765\r");
    terminal.expect("98765");
    wait_for_job();
    terminal.press("\x1a");
    terminal.expect("Stopped");
    terminal.press("jobs; bg; kill %1; wait %1; echo gone $?\r");
    terminal.expect("gone 143");
    terminal.expect("$ ");
    terminal.press("\x04");
    assert_eq!(terminal.end(), Some(0));
}

/// The shell gives the terminal to the job a moment after it has printed the command line.
fn wait_for_job() {
    std::thread::sleep(std::time::Duration::from_secs(1));
}

fn full_screen_editor_works(lab: &Lab) {
    let world = lab.user();
    let mut terminal = shell(lab);
    terminal.press("vi note.txt\r");
    terminal.expect("note.txt");
    std::thread::sleep(std::time::Duration::from_secs(2));
    terminal.press("ihello from inside\x1b:wq\r");
    terminal.expect("$ ");
    terminal.press("exit\r");
    assert_eq!(terminal.end(), Some(0));
    let written = std::fs::read_to_string(world.home().join("note.txt")).unwrap();
    assert_eq!(written, "hello from inside\n");
}

fn terminal_can_be_requested(lab: &Lab) {
    let world = lab.user();
    let mut terminal = Terminal::start(
        &world.machine(&["run", "-t", "-n", "dev", "tty; exit 3"]),
        24,
        80,
    );
    terminal.expect("/dev/pts/");
    assert_eq!(terminal.end(), Some(3));
    let without = world.run(&["run", "-n", "dev", "tty"]);
    assert_eq!(without.stdout, "not a tty\n");
}
