//! Sizes in human-readable form.

const UNITS: [(f64, &str); 4] = [
    ((1u64 << 40) as f64, "TiB"),
    ((1u64 << 30) as f64, "GiB"),
    ((1u64 << 20) as f64, "MiB"),
    ((1u64 << 10) as f64, "KiB"),
];

/// Formats a number of bytes in the largest binary unit that fits, with one decimal: `7.6 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    let bytes = bytes as f64;
    // A value that would be rounded to 1024.0 is shown as 1.0 of the next unit.
    let fits = |unit: f64| bytes >= unit * (1.0 - 0.05 / 1024.0);
    match UNITS.into_iter().find(|(unit, _)| fits(*unit)) {
        Some((unit, name)) => format!("{:.1} {name}", bytes / unit),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_are_rounded_to_the_next_unit() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(200 << 20), "200.0 MiB");
        assert_eq!(size((1 << 30) - 1), "1.0 GiB");
        assert_eq!(size(12052 << 20), "11.8 GiB");
        assert_eq!(size(3 << 40), "3.0 TiB");
    }
}
