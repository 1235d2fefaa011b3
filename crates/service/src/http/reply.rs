//! Replies, and the tasks that outlive the client's connection.

use std::convert::Infallible;

use axum::{
    Json,
    body::Body,
    http::{HeaderValue, header::TRAILER},
    response::Response,
};
use container_api::FAILURE_TRAILER;
use futures::StreamExt;
use http_body_util::BodyExt;
use serde::Serialize;

use super::{refusal::Refusal, shared::Shared};
use crate::{
    failure::{RequestError, TaskPanicked},
    stream_client::StreamClient,
};

/// A reply with a JSON body.
pub(super) type Reply<T> = Result<Json<T>, Refusal>;

/// Returns the reply with an archive, which breaks off with a trailer if it fails. The request is
/// in progress until it is sent.
pub(super) fn archive(shared: &Shared, body: Body) -> Response {
    let guard = shared.activity.begin();
    let body = body.map_frame(move |frame| {
        let _in_progress = &guard;
        frame
    });
    let mut response = Response::new(Body::new(body));
    let trailer = HeaderValue::from_static(FAILURE_TRAILER);
    response.headers_mut().insert(TRAILER, trailer);
    response
}

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
