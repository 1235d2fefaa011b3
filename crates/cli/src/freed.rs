//! Output about removed data.

use container_api::{Freed, Progress};
use container_client::ClientError;

use crate::{
    confirm::{confirm, is_interactive},
    failure::Failure,
    output,
    progress::{ProgressMode, show_while},
    size::size,
};

/// Asks for confirmation on a terminal, removes with `prune`, and prints how much was freed. `what`
/// is a sentence that says what is removed.
pub(crate) async fn prune(
    what: &str,
    force: bool,
    prune: impl AsyncFnOnce(&mut dyn FnMut(Progress)) -> Result<Freed, ClientError>,
) -> Result<(), Failure> {
    if !force && is_interactive() && !confirm(what)? {
        return Err(Failure::new("cancelled; nothing was removed"));
    }
    let cancelled = "Cancelled; nothing was removed.";
    let freed = show_while(ProgressMode::Auto, cancelled, prune).await?;
    if !freed.references.is_empty() {
        print_names(&freed)?;
    }
    output::line(summary(&freed))
}

/// Prints the removed references, or the digests of removed images if no reference was removed.
pub(crate) fn print_names(freed: &Freed) -> Result<(), Failure> {
    let names = if freed.references.is_empty() {
        &freed.images
    } else {
        &freed.references
    };
    let lines = names.iter().map(|name| format!("{name}\n"));
    output::print(&lines.collect::<String>())
}

/// Returns how much was freed, and of what.
pub(crate) fn summary(freed: &Freed) -> String {
    let counts = [
        (freed.images.len(), "image", "images"),
        (freed.blobs, "blob", "blobs"),
        (freed.bases, "base", "bases"),
        (freed.templates, "template", "templates"),
    ];
    let counts = counts.into_iter().filter(|(count, ..)| *count > 0);
    let counts: Vec<String> = counts
        .map(|(count, one, several)| match count {
            1 => format!("1 {one}"),
            _ => format!("{count} {several}"),
        })
        .collect();
    if counts.is_empty() {
        return "Nothing to remove".to_owned();
    }
    format!("Freed {} ({})", size(freed.bytes), counts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removed_parts_are_counted() {
        assert_eq!(summary(&Freed::default()), "Nothing to remove");
        let freed = Freed {
            bases: 1,
            blobs: 12,
            bytes: 3 << 20,
            images: vec!["sha256:0".to_owned()],
            references: vec![],
            templates: 2,
        };
        assert_eq!(
            summary(&freed),
            "Freed 3.0 MiB (1 image, 12 blobs, 1 base, 2 templates)"
        );
    }
}
