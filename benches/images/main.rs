//! Measures the way from an image in a registry on loopback to a bootable disk: this project's,
//! other tools', and the floor, which only decompresses the layers.
//!
//! `cargo bench` prints a table. The environment variable `ROUNDS` is the number of rounds (5).
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use std::{
    fs::{self, File},
    io::{self, BufReader},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use container_benches::{Row, host, rounds, run, time};
use end_to_end::{Lab, World};
use flate2::bufread::GzDecoder;
use xtask::checkout;

const CREATE: [&str; 4] = ["create", "--no-boot", "--name", "dev"];

fn main() {
    let lab = Lab::default();
    let world = World::for_root();
    let image = lab.image("debian-systemd:12");
    // The floor decompresses the layers that this create has downloaded.
    ours(&world, &image);
    let layers = layers(&world);
    let kept = tempfile::tempdir_in("/var/tmp").unwrap();
    let layers: Vec<PathBuf> = layers
        .iter()
        .map(|layer| {
            let copy = kept.path().join(layer.file_name().unwrap());
            fs::copy(layer, &copy).unwrap();
            copy
        })
        .collect();
    let others = checkout().join("benches/others/target/release/pull");
    let mut rows = vec![
        Row {
            name: "the layers decompressed to nowhere, by our decoder",
            take: Box::new(|| time(|| layers.iter().for_each(|layer| decompress(layer)))),
        },
        Row {
            name: "the same by `gzip -dc`",
            take: Box::new(|| time(|| layers.iter().for_each(|layer| gzip(layer)))),
        },
        Row {
            name: "`container machine create --no-boot`, nothing cached",
            take: Box::new(|| ours(&world, &image)),
        },
        Row {
            name: "`skopeo copy`, `umoci unpack`, `mke2fs -d`",
            take: Box::new(|| umoci(&image)),
        },
        Row {
            name: "`buildah pull` (a directory tree, no disk)",
            take: Box::new(|| buildah(&image)),
        },
    ];
    if others.exists() {
        rows.push(Row {
            name: "the crate microsandbox-image to its flat ext4",
            take: Box::new(|| {
                let cache = scratch();
                let arguments = [cache.path().to_str().unwrap(), &image];
                time(|| succeed(Command::new(&others).args(arguments)))
            }),
        });
    } else {
        println!("`make bench-others` first, to see the crate microsandbox-image as well\n");
    }
    println!("{}\n", host());
    run(&mut rows, rounds());
    println!("\nPeak memory of our service: {} MiB", peak_memory(&world));
}

/// Times a create. Removes the machine and the image of an earlier one before.
fn ours(world: &World, image: &str) -> Duration {
    if world.path("data/container/machines/dev").exists() {
        world.stdout(&["rm", "dev"]);
        let pruned = world
            .container(&["image", "prune", "--all", "--force"])
            .output();
        assert!(pruned.unwrap().status.success());
    }
    time(|| drop(world.stdout(&[&CREATE[..], &[image]].concat())))
}

/// Returns the paths of the layers in the image store, by their size.
fn layers(world: &World) -> Vec<PathBuf> {
    let blobs = fs::read_dir(world.path("data/container/images/blobs/sha256")).unwrap();
    let blobs = blobs.map(|blob| blob.unwrap().path());
    blobs
        .filter(|blob| fs::metadata(blob).unwrap().len() > 1 << 16)
        .collect()
}

fn decompress(layer: &Path) {
    let file = BufReader::with_capacity(256 << 10, File::open(layer).unwrap());
    io::copy(
        &mut BufReader::with_capacity(256 << 10, GzDecoder::new(file)),
        &mut io::sink(),
    )
    .unwrap();
}

fn gzip(layer: &Path) {
    let nowhere = File::create("/dev/null").unwrap();
    succeed(
        Command::new("gzip")
            .arg("-dc")
            .stdin(File::open(layer).unwrap())
            .stdout(nowhere),
    );
}

fn umoci(image: &str) -> Duration {
    let scratch = scratch();
    let path = |name: &str| scratch.path().join(name).display().to_string();
    let (layout, bundle, disk) = (path("layout"), path("bundle"), path("disk"));
    time(|| {
        let from = format!("docker://{image}");
        let to = format!("oci:{layout}:x");
        succeed(Command::new("skopeo").args([
            "copy",
            "--quiet",
            "--src-tls-verify=false",
            &from,
            &to,
        ]));
        let layout = format!("{layout}:x");
        succeed(Command::new("umoci").args(["unpack", "--image", &layout, &bundle]));
        let tree = format!("{bundle}/rootfs");
        succeed(Command::new("mke2fs").args(["-q", "-t", "ext4", "-d", &tree, &disk, "512G"]));
    })
}

fn buildah(image: &str) -> Duration {
    let scratch = scratch();
    let path = |name: &str| scratch.path().join(name).display().to_string();
    let (root, run) = (path("root"), path("run"));
    let buildah = || {
        let mut buildah = Command::new("buildah");
        buildah.args([
            "--storage-driver",
            "overlay",
            "--root",
            &root,
            "--runroot",
            &run,
        ]);
        buildah
    };
    let taken = time(|| succeed(buildah().args(["pull", "--quiet", "--tls-verify=false", image])));
    succeed(buildah().args(["rmi", "--all"]));
    taken
}

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/var/tmp").unwrap()
}

fn succeed(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// Returns the peak memory of this world's service in MiB.
fn peak_memory(world: &World) -> u64 {
    let service = &world.processes("service")[0];
    let peak = service.status("VmHWM").unwrap();
    peak.trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}
