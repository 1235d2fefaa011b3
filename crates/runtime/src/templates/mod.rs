//! Templates: virtual machines that were saved after their kernel had booted, before they belonged
//! to a machine. Restoring one replaces the boot of the kernel.
//!
//! The directory of templates holds:
//!
//! | file | content |
//! |---|---|
//! | `<key>/template.json` | key and outcome; its time of modification is that of the last use |
//! | `<key>/memory` | the saved virtual machine, sparse; absent if it could not be saved |
//! | `<key>/console.log` | output of its kernel |
//! | `lock` | held by the process that makes a template |
//! | `maker.log` | log of the last such process |
//!
//! Directories appear and disappear by a rename, so a template is complete or does not exist. Those
//! whose name starts with a dot are leftovers of a crash unless the lock is held.
//!
//! A template fits a machine if their [`TemplateKey`]s are equal. The key names everything that the
//! saved memory depends on: program, accelerator and processor, all devices, kernel parameters, and
//! the files that kernel and initramfs were read from.

mod clock;
mod key;
mod maker;
mod store;
mod usage;

pub(crate) use key::TemplateKey;
pub(crate) use maker::order;
pub use maker::template_main;
pub(crate) use store::{Cold, Template, TemplateUse, Templates};
pub use usage::{RemovedTemplates, TemplateUsage, remove_templates, template_usage};
