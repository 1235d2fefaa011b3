//! Output about removed images.

use container_api::Freed;

use crate::{failure::Failure, output, size::size};

/// Prints the removed references, or the digests of removed images if no reference was removed.
pub(super) fn print_names(freed: &Freed) -> Result<(), Failure> {
    let names = if freed.references.is_empty() {
        &freed.images
    } else {
        &freed.references
    };
    let lines = names.iter().map(|name| format!("{name}\n"));
    output::print(&lines.collect::<String>())
}

/// Returns how much was freed, and of what.
pub(super) fn summary(freed: &Freed) -> String {
    let counts = [
        (freed.images.len(), "image", "images"),
        (freed.blobs, "blob", "blobs"),
        (freed.bases, "base", "bases"),
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
        };
        assert_eq!(summary(&freed), "Freed 3.0 MiB (1 image, 12 blobs, 1 base)");
    }
}
