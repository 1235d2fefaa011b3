//! One running machine: engine child, file share, guest channel, logs.
