//! What can be completed besides verbs and options: values, by their types.

use std::{any::TypeId, ffi::OsStr};

use clap::{Arg, Command};
use clap_complete::{
    ArgValueCompleter, CompletionCandidate, PathCompleter, engine::ValueCompleter,
};
use container_machine::{Bundles, HomeMount, MachineId, World};

use crate::{filter::Filter, format::Format, image::ImageFilter, values::ImageName};

const HOME_MOUNTS: &[&str] = &["rw", "ro", "none"];

const FORMATS: &[&str] = &["table", "json"];

const FILTERS: &[&str] = &[
    "id=",
    "name=",
    "image=",
    "status=running",
    "status=starting",
    "status=stopped",
    "default=true",
    "default=false",
];

const IMAGE_FILTERS: &[&str] = &[
    "reference=",
    "name=",
    "machine=",
    "platform=",
    "used=true",
    "used=false",
];

/// What `set` can set.
const SETTINGS: &[&str] = &[
    "cpus=",
    "memory=",
    "disk=",
    "home-mount=rw",
    "home-mount=ro",
    "home-mount=none",
    "publish=",
    "virtualization=true",
    "virtualization=false",
    "kernel=",
];

/// Gives all arguments of this command, and of those below it, what they can be.
pub fn with_candidates(command: Command) -> Command {
    command
        .mut_args(with_values)
        .mut_subcommands(with_candidates)
}

fn with_values(argument: Arg) -> Arg {
    let read_as = argument.get_value_parser().type_id();
    let is = |one: TypeId| read_as == one;
    let completer = if is(TypeId::of::<MachineId>()) {
        ArgValueCompleter::new(machines)
    } else if is(TypeId::of::<HomeMount>()) {
        ArgValueCompleter::new(|typed: &OsStr| beginning(typed, HOME_MOUNTS))
    } else if is(TypeId::of::<Filter>()) {
        ArgValueCompleter::new(|typed: &OsStr| beginning(typed, FILTERS))
    } else if is(TypeId::of::<ImageFilter>()) {
        ArgValueCompleter::new(|typed: &OsStr| beginning(typed, IMAGE_FILTERS))
    } else if is(TypeId::of::<ImageName>()) {
        ArgValueCompleter::new(images)
    } else if is(TypeId::of::<Format>()) {
        ArgValueCompleter::new(|typed: &OsStr| beginning(typed, FORMATS))
    } else if argument.get_id() == "source" || argument.get_id() == "destination" {
        ArgValueCompleter::new(places)
    } else if argument.get_id() == "settings" {
        ArgValueCompleter::new(|typed: &OsStr| beginning(typed, SETTINGS))
    } else {
        return argument;
    };
    argument.add(completer)
}

/// The ends of a copy: paths of the host, and machines with a colon behind them.
fn places(typed: &OsStr) -> Vec<CompletionCandidate> {
    let mut places = PathCompleter::any().complete(typed);
    places.extend(ids().iter().filter_map(|id| {
        let place = format!("{id}:");
        let begins = place.starts_with(&*typed.to_string_lossy());
        begins.then(|| CompletionCandidate::new(place))
    }));
    places
}

/// The machines on disk.
fn machines(typed: &OsStr) -> Vec<CompletionCandidate> {
    let ids = ids();
    let words: Vec<&str> = ids.iter().map(MachineId::as_str).collect();
    beginning(typed, &words)
}

/// The images on disk; none where they cannot be read.
fn images(typed: &OsStr) -> Vec<CompletionCandidate> {
    let images = World::of_environment().map(|world| world.images());
    let known = images
        .ok()
        .and_then(|images| container_image::references(&images).ok());
    let known: Vec<String> = known.iter().flatten().map(ToString::to_string).collect();
    let words: Vec<&str> = known.iter().map(String::as_str).collect();
    beginning(typed, &words)
}

/// None where they cannot be read.
fn ids() -> Vec<MachineId> {
    let data = World::of_environment().map(|world| world.data);
    let bundles = data.ok().and_then(|data| Bundles::open(&data).ok());
    let ids = bundles.and_then(|bundles| bundles.ids().ok());
    ids.unwrap_or_default()
}

fn beginning(typed: &OsStr, words: &[&str]) -> Vec<CompletionCandidate> {
    let typed = typed.to_string_lossy();
    let matching = words.iter().filter(|word| word.starts_with(&*typed));
    matching.map(CompletionCandidate::new).collect()
}
