//! `container machine snapshot`

use std::io::{self, IsTerminal};

use clap::{Args, Subcommand};
use container_api::{
    FailureKind, RemoveSnapshotRequest, RestoreRequest, SnapshotRequest, SnapshotState,
};
use container_client::{Client, ClientError};
use container_machine::{MachineId, SnapshotName};
use jiff::{Span, Timestamp, tz::TimeZone};

use super::target::one_or_default;
use crate::{
    confirm::{confirm, is_interactive},
    failure::Failure,
    format::{FormatError, ListFormat},
    output,
    progress::{self, ProgressMode},
    size::size,
    table::{Cell, table},
};

/// Fields for templates.
const FIELDS: &[&str] = &["createdDate", "expiresDate", "memorySize", "name", "size"];

/// Format of dates in tables.
const DATE: &str = "%Y-%m-%d %H:%M:%S";

/// Keep states of a machine, and restore them.
///
/// A snapshot has the disk, and takes only the space of what is overwritten afterwards. Of a
/// machine that runs or is suspended, it also has the memory, so that programs continue where they
/// were. It does not contain the shared home.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container machine snapshot create before-upgrade
  container machine snapshot ls
  container machine stop && container machine snapshot restore before-upgrade")]
pub(crate) struct Snapshot {
    #[command(subcommand)]
    verb: Verb,
}

/// Verbs. Their help texts are the docs of the types.
#[derive(Debug, Subcommand)]
enum Verb {
    Create(Create),
    #[command(visible_alias = "ls")]
    List(List),
    Restore(Restore),
    #[command(visible_alias = "rm", alias = "delete")]
    Remove(Remove),
}

/// The machine whose snapshots are meant.
#[derive(Debug, Args)]
struct Target {
    /// Machine; default: the default machine.
    #[arg(short = 'n', long = "name", value_name = "ID")]
    id: Option<MachineId>,
}

/// Keep the current state of a machine.
///
/// The memory of a running machine is saved as well, for which the machine is paused; then it
/// continues, with its commands and connections. Interrupting the command leaves no snapshot. With
/// --disk-only, the disk alone is kept, at once, with the files that the machine has written.
///
/// A snapshot that has expired is removed at the next boot or snapshot command of the machine.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container machine snapshot create before-upgrade
  container machine snapshot create -n dev nightly-12 --disk-only --expire 7d")]
struct Create {
    #[command(flatten)]
    target: Target,

    /// Name of the snapshot.
    #[arg(value_name = "SNAPSHOT")]
    snapshot: SnapshotName,

    /// Keep the disk alone, without the memory of a machine that runs or is suspended.
    #[arg(long)]
    disk_only: bool,

    /// Time for which the snapshot is kept, such as 12h, 7d or 2w; default: until it is removed.
    #[arg(long, value_name = "TIME", value_parser = positive_time)]
    expire: Option<Span>,
}

/// List the snapshots of a machine, the oldest first.
///
/// SIZE is the space of what was written between the snapshot or clone before and this one, and of
/// the memory. MEMORY is that of the memory alone, and empty if only the disk was kept.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container machine snapshot ls
  container machine snapshot ls -n dev --format '{{ name }} {{ size | size }}'")]
struct List {
    #[command(flatten)]
    target: Target,

    /// Output format: table, json, or a Jinja template such as `{{ name }} {{ size | size }}`.
    #[arg(long, default_value = "table", value_name = "FORMAT", value_parser = format)]
    format: ListFormat,
}

/// Restore a machine that is stopped or suspended.
///
/// After a snapshot with memory, the machine is suspended: the next `run` or `start` resumes it
/// where it was. With --disk-only, or after a snapshot without memory, it is stopped.
///
/// All snapshots remain, also later ones. Changes that are in no snapshot are lost: on a terminal
/// there is a question, otherwise --force is required.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container machine snapshot restore before-upgrade
  container machine snapshot restore -n dev before-upgrade --force")]
struct Restore {
    #[command(flatten)]
    target: Target,

    /// Name of the snapshot.
    #[arg(value_name = "SNAPSHOT")]
    snapshot: SnapshotName,

    /// Give up changes that are in no snapshot.
    #[arg(short, long)]
    force: bool,

    /// Restore the disk alone, without the snapshot's memory.
    #[arg(long)]
    disk_only: bool,
}

/// Remove snapshots.
///
/// The disk and the other snapshots do not change. The space is freed now if the machine is
/// stopped; of a running machine, only what no later snapshot and not the disk is based on.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container machine snapshot rm before-upgrade
  container machine snapshot rm -n dev monday tuesday")]
struct Remove {
    #[command(flatten)]
    target: Target,

    /// Names of the snapshots.
    #[arg(required = true, value_name = "SNAPSHOT")]
    snapshots: Vec<SnapshotName>,
}

fn format(word: &str) -> Result<ListFormat, FormatError> {
    ListFormat::parse(word, FIELDS, "{{ name }} {{ createdDate }}")
}

fn positive_time(word: &str) -> Result<Span, String> {
    let span: Span = word
        .parse()
        .map_err(|error: jiff::Error| error.to_string())?;
    if span.is_positive() {
        Ok(span)
    } else {
        Err("the time must be positive".to_owned())
    }
}

impl Snapshot {
    /// Runs the verb.
    pub(crate) async fn run(self, client: &Client) -> Result<(), Failure> {
        match self.verb {
            Verb::Create(create) => create.run(client).await,
            Verb::List(list) => list.run(client).await,
            Verb::Restore(restore) => restore.run(client).await,
            Verb::Remove(remove) => remove.run(client).await,
        }
    }
}

impl Create {
    async fn run(self, client: &Client) -> Result<(), Failure> {
        let id = one_or_default(client, self.target.id).await?;
        let request = SnapshotRequest {
            name: self.snapshot,
            expires: self.expire.map(from_now).transpose()?,
            disk_only: self.disk_only,
        };
        let mode = if io::stderr().is_terminal() {
            ProgressMode::Auto
        } else {
            ProgressMode::None
        };
        let cancelled = format!("Cancelled; {id} has no new snapshot");
        progress::show_while(mode, &cancelled, async |show| {
            client.create_snapshot(&id, &request, show).await
        })
        .await?;
        output::line(request.name)
    }
}

/// Returns the time after a span, in which days and weeks are those of the calendar.
fn from_now(span: Span) -> Result<Timestamp, Failure> {
    let now = Timestamp::now().to_zoned_datetime(TimeZone::system());
    let end = now.checked_add(span);
    let end = end.map_err(|error| Failure::new(format!("invalid value for --expire: {error}")))?;
    Ok(end.timestamp())
}

impl List {
    async fn run(self, client: &Client) -> Result<(), Failure> {
        let id = one_or_default(client, self.target.id).await?;
        let snapshots = client.snapshots(&id).await?;
        self.format.print(&snapshots, |snapshots, is_coloured| {
            snapshot_table(snapshots, &TimeZone::system(), is_coloured)
        })
    }
}

fn snapshot_table(snapshots: &[SnapshotState], here: &TimeZone, is_coloured: bool) -> String {
    let headings = ["NAME", "CREATED", "EXPIRES", "SIZE", "MEMORY"];
    let date = |date: Timestamp| {
        let date = date.to_zoned_datetime(here.clone());
        date.strftime(DATE).to_string()
    };
    let row = |snapshot: &SnapshotState| -> [Cell; 5] {
        [
            snapshot.name.to_string().into(),
            date(snapshot.created_date).into(),
            snapshot.expires_date.map(date).unwrap_or_default().into(),
            size(snapshot.size).into(),
            snapshot.memory_size.map(size).unwrap_or_default().into(),
        ]
    };
    table(headings, snapshots.iter().map(row), is_coloured)
}

impl Restore {
    async fn run(self, client: &Client) -> Result<(), Failure> {
        let id = one_or_default(client, self.target.id).await?;
        let mut request = RestoreRequest {
            name: self.snapshot,
            force: self.force,
            disk_only: self.disk_only,
        };
        match client.restore_snapshot(&id, &request).await {
            Err(ClientError::Service(failure))
                if failure.kind == FailureKind::WouldLose && is_interactive() =>
            {
                let what = format!("Changes of {id} that are in no snapshot are lost.");
                if !confirm(&what)? {
                    return Err(Failure::new("cancelled; nothing was restored"));
                }
                request.force = true;
                client.restore_snapshot(&id, &request).await?;
            }
            other => other?,
        }
        output::line(request.name)
    }
}

impl Remove {
    async fn run(self, client: &Client) -> Result<(), Failure> {
        let id = one_or_default(client, self.target.id).await?;
        for name in self.snapshots {
            let request = RemoveSnapshotRequest { name };
            client.remove_snapshot(&id, &request).await?;
            output::line(request.name)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshots() -> Vec<SnapshotState> {
        let monday = SnapshotState {
            created_date: "2026-03-02T08:15:00Z".parse().unwrap(),
            expires_date: None,
            memory_size: None,
            name: "monday".parse().unwrap(),
            size: 7 << 20,
        };
        let tuesday = SnapshotState {
            created_date: "2026-03-03T08:15:00Z".parse().unwrap(),
            expires_date: Some("2026-03-10T08:15:00Z".parse().unwrap()),
            memory_size: Some(300 << 20),
            name: "tuesday".parse().unwrap(),
            size: 3 << 30,
        };
        vec![monday, tuesday]
    }

    #[test]
    fn snapshots_as_table() {
        let table = snapshot_table(&snapshots(), &TimeZone::UTC, false);
        insta::assert_snapshot!("snapshot-table", table);
    }

    #[test]
    fn templates_know_every_field() {
        let whole = serde_json::to_value(&snapshots()[1]).unwrap();
        let fields: Vec<&String> = whole.as_object().unwrap().keys().collect();
        assert_eq!(fields, FIELDS);
    }

    #[test]
    fn times_are_positive() {
        assert!(positive_time("7d").is_ok());
        assert!(positive_time("1h30m").is_ok());
        for word in ["0s", "-7d", "7 ago", "soon", ""] {
            assert!(positive_time(word).is_err(), "{word}");
        }
    }
}
