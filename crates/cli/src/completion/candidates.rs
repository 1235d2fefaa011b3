//! Candidates for the values of arguments, chosen by the type of the value.

use std::{any::TypeId, ffi::OsStr};

use clap::{Arg, Command};
use clap_complete::{
    ArgValueCompleter, CompletionCandidate, PathCompleter, engine::ValueCompleter,
};
use container_machine::{Bundles, Directories, HomeMount, MachineId};
use container_protocol::EgressMode;

use crate::{format::ListFormat, image::ImageFilter, machine::MachineFilter, values::ImageName};

const HOME_MOUNTS: &[&str] = &["rw", "ro", "none"];

const EGRESS_MODES: &[&str] = &["all", "public", "none"];

const FORMATS: &[&str] = &["table", "json"];

const FILTERS: &[&str] = &[
    "id=",
    "name=",
    "image=",
    "status=running",
    "status=starting",
    "status=paused",
    "status=suspended",
    "status=unresponsive",
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

/// Settings of `container machine set`.
const SETTINGS: &[&str] = &[
    "cpus=",
    "memory=",
    "disk=",
    "home-mount=rw",
    "home-mount=ro",
    "home-mount=none",
    "private-home=",
    "publish=",
    "socket=",
    "egress=all",
    "egress=public",
    "egress=none",
    "allow=",
    "allow+=",
    "allow-=",
    "mount=",
    "mount+=",
    "mount-=",
    "isolated=true",
    "isolated=false",
    "idle-suspend=30m",
    "idle-suspend=off",
    "virtualization=true",
    "virtualization=false",
    "kernel=",
];

/// Adds candidates to all arguments of a command and of the commands below it.
pub(super) fn with_candidates(command: Command) -> Command {
    command
        .mut_args(with_value_candidates)
        .mut_subcommands(with_candidates)
}

fn with_value_candidates(argument: Arg) -> Arg {
    let value_type = argument.get_value_parser().type_id();
    let is = |one: TypeId| value_type == one;
    let completer = if is(TypeId::of::<MachineId>()) {
        ArgValueCompleter::new(machines)
    } else if is(TypeId::of::<HomeMount>()) {
        ArgValueCompleter::new(|typed: &OsStr| starting_with(typed, HOME_MOUNTS))
    } else if is(TypeId::of::<EgressMode>()) {
        ArgValueCompleter::new(|typed: &OsStr| starting_with(typed, EGRESS_MODES))
    } else if is(TypeId::of::<MachineFilter>()) {
        ArgValueCompleter::new(|typed: &OsStr| starting_with(typed, FILTERS))
    } else if is(TypeId::of::<ImageFilter>()) {
        ArgValueCompleter::new(|typed: &OsStr| starting_with(typed, IMAGE_FILTERS))
    } else if is(TypeId::of::<ImageName>()) {
        ArgValueCompleter::new(images)
    } else if is(TypeId::of::<ListFormat>()) {
        ArgValueCompleter::new(|typed: &OsStr| starting_with(typed, FORMATS))
    } else if argument.get_id() == "source" || argument.get_id() == "destination" {
        ArgValueCompleter::new(copy_ends)
    } else if argument.get_id() == "settings" {
        ArgValueCompleter::new(|typed: &OsStr| starting_with(typed, SETTINGS))
    } else {
        return argument;
    };
    argument.add(completer)
}

/// Returns candidates for an end of a copy: paths of the host, and machines followed by a colon.
fn copy_ends(typed: &OsStr) -> Vec<CompletionCandidate> {
    let mut ends = PathCompleter::any().complete(typed);
    ends.extend(machine_ids().iter().filter_map(|id| {
        let end = format!("{id}:");
        let is_match = end.starts_with(&*typed.to_string_lossy());
        is_match.then(|| CompletionCandidate::new(end))
    }));
    ends
}

/// Returns the ids of machines in the data directory.
fn machines(typed: &OsStr) -> Vec<CompletionCandidate> {
    let ids = machine_ids();
    let words: Vec<&str> = ids.iter().map(MachineId::as_str).collect();
    starting_with(typed, &words)
}

/// Returns the references of stored images, or nothing if they cannot be read.
fn images(typed: &OsStr) -> Vec<CompletionCandidate> {
    let images = Directories::from_environment().map(|directories| directories.images());
    let known = images
        .ok()
        .and_then(|images| container_image::references(&images).ok());
    let known: Vec<String> = known.iter().flatten().map(ToString::to_string).collect();
    let words: Vec<&str> = known.iter().map(String::as_str).collect();
    starting_with(typed, &words)
}

/// Returns the machines in the data directory, or nothing if they cannot be read.
fn machine_ids() -> Vec<MachineId> {
    let data = Directories::from_environment().map(|directories| directories.data);
    let bundles = data.ok().and_then(|data| Bundles::open(&data).ok());
    let ids = bundles.and_then(|bundles| bundles.ids().ok());
    ids.unwrap_or_default()
}

fn starting_with(typed: &OsStr, words: &[&str]) -> Vec<CompletionCandidate> {
    let typed = typed.to_string_lossy();
    let matching = words.iter().filter(|word| word.starts_with(&*typed));
    matching.map(CompletionCandidate::new).collect()
}
