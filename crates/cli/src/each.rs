//! Verbs that take several machines, images or kernels.

use crate::{failure::Failure, output};

/// Calls `act` for each item, in order. A failure is printed and does not affect the other items.
/// Returns the exit code: 1 if any item failed.
pub(crate) async fn for_each<T>(
    items: Vec<T>,
    mut act: impl AsyncFnMut(T) -> Result<(), Failure>,
) -> Result<u8, Failure> {
    let mut code = 0;
    for item in items {
        if let Err(failure) = act(item).await {
            output::failure(&failure);
            code = 1;
        }
    }
    Ok(code)
}
