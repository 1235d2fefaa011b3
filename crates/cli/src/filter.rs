//! Filters of lists: how several go together, and which names of an image they match.

/// Condition on one item of a list.
pub(crate) trait Filter<T> {
    /// Returns whether the item fulfils the condition.
    fn matches(&self, item: &T) -> bool;
}

/// Returns whether an item matches all filters. Of several filters with the same key, one must
/// match.
pub(crate) fn matches_all<T>(filters: &[impl Filter<T>], item: &T) -> bool {
    filters.iter().all(|filter| {
        let key = std::mem::discriminant(filter);
        let mut same_key = filters
            .iter()
            .filter(|other| std::mem::discriminant(*other) == key);
        same_key.any(|filter| filter.matches(item))
    })
}

/// Returns the names by which users call the image `registry/path/name:tag`: that, `path/name:tag`,
/// `name:tag`, and each without the tag or digest.
pub(crate) fn image_names(reference: &str) -> impl Iterator<Item = &str> {
    let starts = reference.match_indices('/').map(|(at, _)| at + 1);
    std::iter::once(0).chain(starts).flat_map(move |start| {
        let name = &reference[start..];
        // A colon before the last slash belongs to the registry's port.
        let last = name.rfind('/').map_or(0, |at| at + 1);
        let end = name[last..]
            .find([':', '@'])
            .map_or(name.len(), |at| last + at);
        [name, &name[..end]]
    })
}
