//! The domain: machine ids, configurations, and the bundle on disk.
