//! PID 1 of the guest: mounts the machine, starts its init, runs commands in it.

fn main() {}
