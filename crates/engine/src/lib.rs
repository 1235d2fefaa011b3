//! The engine that runs a virtual machine, behind one trait.
