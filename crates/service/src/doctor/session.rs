//! What the user's last logout ends.

use container_api::Check;
use container_systemd::{Logout, at_logout};

/// Checks whether machines run on after a logout.
pub(super) async fn logout() -> Check {
    match at_logout().await {
        Logout::Continues(reason) => Check::ok("logout", format!("machines continue: {reason}")),
        Logout::Stops(reason) => {
            Check::warning("logout", format!("machines are stopped: {reason}"))
        }
    }
}
