//! The per-user service: machines and the recipes create, boot, stop, delete.
