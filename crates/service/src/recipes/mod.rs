//! What can be done with machines: one recipe a file, its steps in order.

mod boot;
mod commit;
pub(crate) mod create;
mod delete;
mod rename;
mod set;
mod stop;

use std::time::Duration;

/// How often a machine that is on its way up is asked whether it is there.
const ASK_AGAIN: Duration = Duration::from_millis(50);
