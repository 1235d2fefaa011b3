//! Replies, and the tasks that outlive the client's connection.

use std::convert::Infallible;

use axum::{Json, body::Body, response::Response};
use futures::StreamExt;
use serde::Serialize;

use super::{refusal::Refusal, shared::Shared};
use crate::{
    failure::{RequestError, TaskPanicked},
    stream_client::StreamClient,
};

/// A reply with a JSON body.
pub(super) type Reply<T> = Result<Json<T>, Refusal>;

/// Runs an operation as a task, so that it is completed even if the client disconnects.
pub(super) async fn completed<T: Send + 'static, E: RequestError>(
    shared: &Shared,
    operation: impl Future<Output = Result<T, E>> + Send + 'static,
) -> Reply<T> {
    let guard = shared.activity.begin();
    let task = tokio::spawn(async move {
        let outcome = operation.await;
        drop(guard);
        outcome
    });
    Ok(Json(task.await.map_err(|_| TaskPanicked)??))
}

/// Runs an operation as a task, and replies with the stream of its progress and its result.
pub(super) fn streamed<T, E, O, F>(shared: &Shared, operation: O) -> Response
where
    T: Serialize + Send + 'static,
    E: RequestError,
    O: FnOnce(StreamClient) -> F,
    F: Future<Output = Result<T, E>> + Send + 'static,
{
    let (client, lines) = StreamClient::new();
    let (operation, guard) = (operation(client.clone()), shared.activity.begin());
    tokio::spawn(async move {
        let outcome = operation.await.map_err(|error| error.to_failure());
        client.finish(outcome).await;
        drop(guard);
    });
    let lines = futures::stream::unfold(lines, async |mut lines| {
        let line = lines.recv().await?;
        Some((line, lines))
    });
    Response::new(Body::from_stream(lines.map(Ok::<_, Infallible>)))
}
