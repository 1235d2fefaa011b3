//! What can be done with machines: one recipe a file, its steps in order.

mod boot;
mod create;
mod delete;
mod set;
mod stop;

use container_api::Progress;

/// Hears how far a recipe is.
pub type Listener<'a> = &'a (dyn Fn(Progress) + Send + Sync);
