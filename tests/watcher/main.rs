//! Prints changes below a directory until standard input ends, as the crate `notify` reports them:
//! `cargo watch`, `watchexec` and many other programs use it.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::path::Path;

use notify::{Event, RecursiveMode, Watcher};

fn main() {
    let directory = std::env::args_os().nth(1).unwrap();
    let print = |event: notify::Result<Event>| {
        let event = event.unwrap();
        for path in event.paths {
            let name = path.file_name().unwrap().display();
            println!("{:?} {name}", event.kind);
        }
    };
    let mut watcher = notify::recommended_watcher(print).unwrap();
    let directory = Path::new(&directory);
    watcher.watch(directory, RecursiveMode::Recursive).unwrap();
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
}
