//! The same for several.

use crate::failure::Failure;

/// Does the same to all of them, in order. What fails for one is told, and does not keep it from
/// the others. Returns the exit code.
pub async fn for_each<T>(
    all: Vec<T>,
    mut act: impl AsyncFnMut(T) -> Result<(), Failure>,
) -> Result<u8, Failure> {
    let mut code = 0;
    for one in all {
        if let Err(failure) = act(one).await {
            failure.print();
            code = 1;
        }
    }
    Ok(code)
}
