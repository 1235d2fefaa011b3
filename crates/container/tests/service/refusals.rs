//! Refused requests: each has a message of one line, and changes nothing.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    net::TcpListener,
    process::Stdio,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::world::World;

#[test]
fn missing_machines_are_named() {
    let world = World::new();
    for verb in [
        &["inspect", "none"][..],
        &["rm", "none"],
        &["stop", "none"],
        &["logs", "none"],
        &["set-default", "none"],
        &["set", "-n", "none", "cpus=2"],
        &["run", "-n", "none", "true"],
    ] {
        assert!(
            world.error(verb).contains("machine \"none\" not found"),
            "{verb:?}"
        );
    }
    assert!(
        world
            .error(&["inspect"])
            .contains("container machine create")
    );
}

#[test]
fn a_failed_create_leaves_no_machine() {
    let world = World::new();
    world.put_machine("dev");
    let home = world.path("no-home");
    let image = "127.0.0.1:1/debian:12";
    let refused = |arguments: &[&str]| world.error(&[&["create", image], arguments].concat());
    assert!(refused(&[]).contains("127.0.0.1:1"));
    assert!(refused(&["--name", "A.b"]).contains("lower-case letters, digits and hyphens"));
    assert!(refused(&["--name", "dev"]).contains("already exists"));
    assert!(refused(&["--kernel", "/none"]).contains("/none"));
    assert!(refused(&["--platform", "linux"]).contains("linux"));
    assert!(world.error(&["create", "Bad Image"]).contains("Bad Image"));
    let without_home = world
        .command(&["create", image])
        .env("HOME", &home)
        .output();
    let without_home = String::from_utf8(without_home.unwrap().stderr).unwrap();
    assert!(
        without_home.contains(home.to_str().unwrap()),
        "{without_home}"
    );
    assert_eq!(world.entries(), ["dev"]);
}

#[test]
fn a_derived_name_that_is_taken_needs_an_explicit_one() {
    let world = World::new();
    world.put_machine("debian-12");
    let error = world.error(&["create", "127.0.0.1:1/debian:12"]);
    assert!(error.contains("--name"), "{error}");
}

#[test]
fn configuration_errors_have_a_line_number() {
    let world = World::new();
    let file = world.path("config/container/config.toml");
    fs::write(&file, "[machine]\ncpus = 2\nmemroy = \"2G\"\n").unwrap();
    let error = world.error(&["create", "127.0.0.1:1/debian:12"]);
    assert!(error.contains("config.toml, line 3"), "{error}");
    assert!(error.contains("memroy"), "{error}");
}

/// The registry accepts connections and never replies, so the create waits until it is cancelled.
#[test]
fn a_cancelled_create_frees_its_name() {
    let world = World::new();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let image = format!("{}/debian:12", silent.local_addr().unwrap());
    for signal in [Signal::INT, Signal::KILL] {
        let mut create = world.command(&["create", &image, "--name", "dev"]);
        let mut create = create.stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(create.stderr.take().unwrap());
        let mut line = String::new();
        stderr.read_line(&mut line).unwrap();
        assert!(line.contains("fetching image"), "{line}");
        kill_process(Pid::from_child(&create), signal).unwrap();
        let status = create.wait().unwrap();
        assert!(!status.success());
        stderr.read_to_string(&mut line).unwrap();
        assert!(!line.contains("Error"), "{line}");
        // Blocks if the first create still holds the name.
        let error = world.error(&["create", "127.0.0.1:1/debian:12", "--name", "dev"]);
        assert!(error.contains("127.0.0.1:1"), "{error}");
        assert_eq!(world.entries(), [""; 0]);
    }
}

#[test]
fn every_error_reply_has_a_kind_and_a_message() {
    let world = World::new();
    world.stdout(&["ls"]);
    for (method, path, body, kind) in [
        ("GET", "/v1/machines/none", "", "notFound"),
        ("GET", "/v1/machines/Not.A.Name", "", "invalid"),
        ("GET", "/v1/default", "", "notFound"),
        ("POST", "/v1/machines", "{", "invalid"),
        ("PATCH", "/v1/machines/none", r#"{"cpus":0}"#, "invalid"),
        ("PATCH", "/v1/machines/none", r#"{"other":0}"#, "invalid"),
        ("GET", "/v1/nothing", "", "invalid"),
        ("DELETE", "/v1/machines", "", "invalid"),
    ] {
        let answer = world.ask(method, path, body).unwrap();
        let body = answer.split("\r\n\r\n").nth(1).unwrap();
        let failure: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(failure["kind"], kind, "{method} {path}: {answer}");
        assert_ne!(failure["message"], "");
    }
}
