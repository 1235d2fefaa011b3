//! What cannot be done, in one sentence each, with nothing left behind.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    net::TcpListener,
    process::Stdio,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::world::World;

#[test]
fn what_is_not_there_is_named() {
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
        assert!(world.error(verb).contains("no machine none"), "{verb:?}");
    }
    assert!(
        world
            .error(&["inspect"])
            .contains("container machine create")
    );
}

#[test]
fn nothing_is_left_of_a_machine_that_cannot_be_made() {
    let world = World::new();
    world.put_machine("dev");
    let home = world.path("no-home");
    let image = "127.0.0.1:1/debian:12";
    let refused = |arguments: &[&str]| world.error(&[&["create", image], arguments].concat());
    assert!(refused(&[]).contains("127.0.0.1:1"));
    assert!(refused(&["--name", "A.b"]).contains("lower-case letters, digits and hyphens"));
    assert!(refused(&["--name", "dev"]).contains("exists already"));
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
fn a_taken_name_that_was_made_from_the_image_asks_for_another() {
    let world = World::new();
    world.put_machine("debian-12");
    let error = world.error(&["create", "127.0.0.1:1/debian:12"]);
    assert!(error.contains("--name"), "{error}");
}

#[test]
fn a_mistake_in_the_configuration_is_pointed_at() {
    let world = World::new();
    let file = world.path("config/container/config.toml");
    fs::write(&file, "[machine]\ncpus = 2\nmemroy = \"2G\"\n").unwrap();
    let error = world.error(&["create", "127.0.0.1:1/debian:12"]);
    assert!(error.contains("config.toml, line 3"), "{error}");
    assert!(error.contains("memroy"), "{error}");
}

/// A registry that takes connections and says nothing: the create waits for it for as long as
/// the test wants.
#[test]
fn a_create_that_is_given_up_frees_its_name() {
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
        // It would wait for the name if the first one still went on.
        let error = world.error(&["create", "127.0.0.1:1/debian:12", "--name", "dev"]);
        assert!(error.contains("127.0.0.1:1"), "{error}");
        assert_eq!(world.entries(), [""; 0]);
    }
}

#[test]
fn every_refusal_on_the_wire_has_a_kind_and_a_sentence() {
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
