//! What is gone, in words.

use container_api::Freed;

use crate::{failure::Failure, output, size::size};

/// Prints the names that are gone, and of what had none, the digest.
pub fn print_names(freed: &Freed) -> Result<(), Failure> {
    let names = match freed.references.is_empty() {
        true => &freed.images,
        false => &freed.references,
    };
    let lines = names.iter().map(|name| format!("{name}\n"));
    output::print(&lines.collect::<String>())
}

/// What it comes to, a sentence.
pub fn in_words(freed: &Freed) -> String {
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
    match counts.is_empty() {
        true => "There was nothing to remove".to_owned(),
        false => format!("Freed {} ({})", size(freed.bytes), counts.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_is_counted() {
        assert_eq!(in_words(&Freed::default()), "There was nothing to remove");
        let freed = Freed {
            bases: 1,
            blobs: 12,
            bytes: 3 << 20,
            images: vec!["sha256:0".to_owned()],
            references: vec![],
        };
        assert_eq!(
            in_words(&freed),
            "Freed 3.0 MiB (1 image, 12 blobs, 1 base)"
        );
    }
}
