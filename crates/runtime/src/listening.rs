//! Accepts connections at a Unix socket.

use std::{fmt::Display, path::Path, time::Duration};

use tokio::{
    net::{UnixListener, UnixStream},
    time::sleep,
};

use crate::file_watch::FileWatch;

/// Delay before another attempt to create the socket.
const RETRY_DELAY: Duration = Duration::from_secs(30);

/// Delay before another attempt to accept a connection.
const ACCEPT_DELAY: Duration = Duration::from_millis(100);

/// Passes connections at the socket to `serve`. A socket that was removed, for example with the
/// directory of a login session, is created again by `listen`.
pub(crate) async fn serve<F, E>(
    socket: &Path,
    mut listener: UnixListener,
    listen: impl Fn() -> F,
    serve: impl Fn(UnixStream),
) where
    F: Future<Output = Result<UnixListener, E>>,
    E: Display,
{
    loop {
        tokio::select! {
            () = accept(&listener, &serve) => {}
            () = await_removal(socket) => {}
        }
        listener = loop {
            match listen().await {
                Ok(listener) => break listener,
                Err(error) => {
                    tracing::warn!("cannot listen on {} again: {error}", socket.display());
                    sleep(RETRY_DELAY).await;
                }
            }
        };
    }
}

async fn await_removal(socket: &Path) {
    loop {
        let watch = FileWatch::new(socket);
        if !socket.exists() {
            return;
        }
        watch.changed().await;
    }
}

async fn accept(listener: &UnixListener, serve: &impl Fn(UnixStream)) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => serve(stream),
            Err(error) => {
                // Most likely no descriptors are left. Other connections will end.
                tracing::warn!("cannot accept a client: {error}");
                sleep(ACCEPT_DELAY).await;
            }
        }
    }
}
