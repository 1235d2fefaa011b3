//! The commands of the program `container`: arguments, output and progress.
