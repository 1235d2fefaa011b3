//! An ext4 file system written as a stream.
