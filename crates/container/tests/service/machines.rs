//! Verbs on stopped machines.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use crate::world::World;

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn lists_are_empty_without_machines() {
    let world = World::new();
    assert_eq!(world.stdout(&["ls", "-q"]), "");
    assert_eq!(world.stdout(&["list", "--format", "json"]), "[]\n");
    assert_eq!(
        world.stdout(&["ls"]),
        "NAME  CREATED  IP  CPUS  MEMORY  DISK  STATE  DEFAULT\n"
    );
}

#[test]
fn machines_are_listed_and_inspected() {
    let world = World::new();
    world.put_machine("dev");
    let disk = world.put_machine("abc").disk_size().unwrap();
    assert_eq!(world.stdout(&["set-default", "abc"]), "abc\n");
    assert_eq!(world.stdout(&["ls", "-q"]), "abc\ndev\n");
    let table = world.command(&["ls"]).env("TZ", "UTC").output().unwrap();
    let table = String::from_utf8(table.stdout).unwrap();
    let abc: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(
        (&abc[..6], &abc[8..]),
        (
            &["abc", "2023-11-14", "22:13:20", "2", "2.0", "GiB"][..],
            &["stopped", "*"][..]
        )
    );
    let listed = parsed(&world.stdout(&["ls", "--format", "json"]));
    assert_eq!(
        listed[0],
        json!({
            "cpus": 2, "createdDate": "2023-11-14T22:13:20Z", "default": true, "diskSize": disk,
            "id": "abc", "memory": 2_147_483_648_u64, "status": "stopped"
        })
    );
    let inspected = world.stdout(&["inspect"]);
    assert_eq!(
        parsed(&inspected),
        json!([{
            "allow": [], "cpus": 2, "createdDate": "2023-11-14T22:13:20Z",
            "diskCapacity": 512_u64 << 30, "diskSize": disk,
            "egress": "all", "homeMount": "rw", "id": "abc", "idleSuspend": "off",
            "image": {
                "descriptor": {
                    "digest": format!("sha256:{}", "0".repeat(64)),
                    "mediaType": "application/vnd.oci.image.manifest.v1+json",
                    "size": 503
                },
                "reference": "registry.example/debian:12"
            },
            "isolated": false,
            "kernelArgs": "",
            "memory": 2_147_483_648_u64,
            "mounts": [],
            "platform": {"architecture": "amd64", "os": "linux"},
            "privateHome": [
                ".config/docker", ".config/systemd/user", ".local/share/containers",
                ".local/share/docker", ".vscode-server"
            ],
            "publish": [],
            "sockets": [],
            "status": "stopped",
            "userSetup": {"gid": 1000, "uid": 1000, "username": "ann"},
            "virtualization": false
        }])
    );
    let keys: Vec<&str> = inspected
        .lines()
        .filter_map(|line| line.strip_prefix("    \"")?.split('"').next())
        .collect();
    assert!(keys.is_sorted(), "{keys:?}");
}

#[test]
fn an_invalid_setting_changes_nothing() {
    let world = World::new();
    world.put_machine("dev");
    let set = |settings: &[&str]| world.run(&[&["set", "-n", "dev"], settings].concat());
    let outcome = set(&["cpus=3", "memory=3gb", "home-mount=ro"]);
    assert_eq!(
        (outcome.stdout.as_str(), outcome.stderr.as_str()),
        ("dev\n", "")
    );
    for wrong in [
        "cpus=0",
        "memory=1",
        "home-mount=x",
        "nothing=1",
        "kernel=/none",
    ] {
        assert_eq!(set(&["cpus=9", wrong]).code, Some(1), "{wrong}");
    }
    let inspected = parsed(&world.stdout(&["inspect", "dev"]));
    let machine = &inspected[0];
    assert_eq!(
        (&machine["cpus"], &machine["memory"], &machine["homeMount"]),
        (&json!(3), &json!(3_221_225_472_u64), &json!("ro"))
    );
}

#[test]
fn machines_are_stopped_and_deleted() {
    let world = World::new();
    world.put_machine("dev");
    world.put_machine("other");
    world.stdout(&["set-default", "dev"]);
    assert_eq!(world.stdout(&["stop"]), "dev\n");
    let outcome = world.run(&["rm", "dev", "none", "other"]);
    assert_eq!(outcome.code, Some(1));
    assert_eq!(outcome.stdout, "dev\nother\n");
    assert!(outcome.stderr.contains("dev was the default machine"));
    assert!(outcome.stderr.contains("Error: machine \"none\" not found"));
    assert_eq!(world.entries(), [""; 0]);
    assert!(world.error(&["stop"]).contains("no machines yet"));
}

#[test]
fn a_log_is_followed_until_its_reader_exits() {
    let world = World::new();
    let bundle = world.put_machine("dev");
    assert_eq!(world.stdout(&["logs", "dev"]), "");
    fs::write(bundle.boot_log(), "kernel\n").unwrap();
    fs::write(bundle.stdio_log(), b"one\ntwo \xff\nthree\n").unwrap();
    assert_eq!(world.stdout(&["logs", "--boot", "dev"]), "kernel\n");
    assert_eq!(world.stdout(&["logs", "-n", "1", "dev"]), "three\n");
    let raw = world.command(&["logs", "dev"]).output().unwrap();
    assert_eq!(
        raw.stdout, b"one\ntwo \xff\nthree\n",
        "invalid UTF-8 is printed unchanged"
    );

    let mut following = world.command(&["logs", "-f", "-n", "1", "dev"]);
    let mut following = following.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "three");
    let mut log = fs::File::options()
        .append(true)
        .open(bundle.stdio_log())
        .unwrap();
    std::io::Write::write_all(&mut log, b"four\n").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "four");
    drop(lines);
    assert!(following.wait().unwrap().success());
}

#[test]
fn disks_follow_a_data_directory_that_was_moved() {
    let world = World::new();
    let bundle = world.put_machine("dev");
    let bases = world.path("data/container/images/bases");
    fs::create_dir_all(&bases).unwrap();
    let base = bases.join("base.ext4");
    fs::write(&base, vec![0; 1 << 20]).unwrap();
    let disk = fs::canonicalize(bundle.disk()).unwrap();
    fs::remove_file(&disk).unwrap();
    let mut create = Command::new("qemu-img");
    create
        .args(["create", "-q", "-f", "qcow2"])
        .arg(&disk)
        .arg("1M");
    assert!(create.status().unwrap().success());
    let qemu_img = |arguments: &[&str]| {
        let output = Command::new("qemu-img")
            .args(arguments)
            .arg(&disk)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let old = "/moved/container/images/bases/base.ext4";
    qemu_img(&["rebase", "-u", "-F", "raw", "-b", old]);
    world.stdout(&["ls"]);
    let information = qemu_img(&["info", "--output=json"]);
    let backing = &parsed(&information)["backing-filename"];
    assert_eq!(backing, base.to_str().unwrap());
}
