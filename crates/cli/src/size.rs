//! Bytes as people read them.

const UNITS: [(f64, &str); 4] = [
    ((1u64 << 40) as f64, "TiB"),
    ((1u64 << 30) as f64, "GiB"),
    ((1u64 << 20) as f64, "MiB"),
    ((1u64 << 10) as f64, "KiB"),
];

/// A number of bytes in the largest binary unit of which there is one, to a tenth: `7.6 MiB`.
pub fn size(bytes: u64) -> String {
    let bytes = bytes as f64;
    // What would be rounded to 1024 is one of the next unit.
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
    fn sizes_read_as_people_write_them() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(200 << 20), "200.0 MiB");
        assert_eq!(size((1 << 30) - 1), "1.0 GiB");
        assert_eq!(size(12052 << 20), "11.8 GiB");
        assert_eq!(size(3 << 40), "3.0 TiB");
    }
}
