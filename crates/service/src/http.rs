//! Between wire and service: routes, bodies, streams.

use std::{convert::Infallible, sync::Arc};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use container_api::{
    BootChange, Changed, CreateRequest, Created, DefaultMachine, Deleted, Failure, FailureKind,
    Logs, Pong, Progress, Snapshot, StreamEvent,
};
use container_machine::{BundleError, MachineId};
use futures::StreamExt;
use serde::Serialize;
use tokio::sync::{Notify, mpsc};

use crate::{SharedService, error::ServiceError, process::build_id};

/// What the routes share.
#[derive(Debug, Clone)]
pub struct Shared {
    /// The machines.
    pub service: SharedService,
    /// Told when a client wants another service in this one's place.
    pub retire: Arc<Notify>,
}

/// All routes: see [`container_api`].
pub fn router(shared: Shared) -> Router {
    Router::new()
        .route("/v1/ping", get(ping))
        .route("/v1/retire", post(retire))
        .route("/v1/machines", get(list).post(create))
        .route("/v1/machines/{id}", get(inspect).patch(set).delete(delete))
        .route("/v1/machines/{id}/boot", post(boot))
        .route("/v1/machines/{id}/stop", post(stop))
        .route("/v1/machines/{id}/logs", get(logs))
        .route("/v1/default", get(default_machine).put(set_default))
        .with_state(shared)
}

/// A failure on its way to the wire.
struct Refusal(ServiceError);

impl<E: Into<ServiceError>> From<E> for Refusal {
    fn from(error: E) -> Self {
        Refusal(error.into())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let failure = Failure::from(&self.0);
        let status = match failure.kind {
            FailureKind::NotFound => StatusCode::NOT_FOUND,
            FailureKind::Exists => StatusCode::CONFLICT,
            FailureKind::Invalid => StatusCode::BAD_REQUEST,
            FailureKind::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(failure)).into_response()
    }
}

type Reply<T> = Result<Json<T>, Refusal>;

async fn ping() -> Json<Pong> {
    Json(Pong { build: build_id() })
}

async fn retire(State(shared): State<Shared>) {
    shared.retire.notify_one();
}

async fn list(State(shared): State<Shared>) -> Reply<Vec<Snapshot>> {
    Ok(Json(shared.service.snapshots().await?))
}

async fn inspect(State(shared): State<Shared>, Path(id): Path<MachineId>) -> Reply<Snapshot> {
    Ok(Json(shared.service.snapshot(&id).await?))
}

async fn set(
    State(shared): State<Shared>,
    Path(id): Path<MachineId>,
    Json(change): Json<BootChange>,
) -> Reply<Changed> {
    Ok(Json(shared.service.set(&id, &change).await?))
}

async fn delete(State(shared): State<Shared>, Path(id): Path<MachineId>) -> Reply<Deleted> {
    // Carried through even if whoever asked goes away.
    let service = shared.service;
    let deleted = tokio::spawn(async move { service.delete(&id).await }).await;
    Ok(Json(deleted.map_err(|_| ServiceError::GivenUp)??))
}

async fn stop(State(shared): State<Shared>, Path(id): Path<MachineId>) -> Reply<()> {
    let service = shared.service;
    let stopped = tokio::spawn(async move { service.stop(&id).await }).await;
    Ok(Json(stopped.map_err(|_| ServiceError::GivenUp)??))
}

async fn logs(State(shared): State<Shared>, Path(id): Path<MachineId>) -> Reply<Logs> {
    let bundle = shared.service.bundles.get(&id)?;
    Ok(Json(Logs {
        stdio: bundle.stdio_log(),
        boot: bundle.boot_log(),
    }))
}

async fn default_machine(State(shared): State<Shared>) -> Reply<DefaultMachine> {
    let default = shared.service.bundles.default_machine()?;
    let id = default.ok_or(BundleError::NoDefault)?;
    Ok(Json(DefaultMachine { id }))
}

async fn set_default(
    State(shared): State<Shared>,
    Json(default): Json<DefaultMachine>,
) -> Reply<()> {
    shared.service.bundles.set_default_machine(&default.id)?;
    Ok(Json(()))
}

async fn create(State(shared): State<Shared>, Json(request): Json<CreateRequest>) -> Response {
    streamed(move |events| async move {
        let listener = |progress| events.tell(progress);
        let given_up = events.sender.closed();
        let id = shared.service.create(&request, &listener, given_up).await?;
        Ok(Created { id })
    })
}

async fn boot(State(shared): State<Shared>, Path(id): Path<MachineId>) -> Response {
    streamed(move |events| async move {
        shared
            .service
            .boot(&id, &|progress| events.tell(progress))
            .await
    })
}

/// The way from a recipe to a streamed reply.
#[derive(Debug, Clone)]
struct Events {
    sender: mpsc::Sender<Bytes>,
}

impl Events {
    /// Tells progress; one that the reader is too slow for is left out.
    fn tell(&self, progress: Progress) {
        let _ = self
            .sender
            .try_send(line(&StreamEvent::<()>::Progress(progress)));
    }
}

/// Carries `work` out on a task of its own, and streams what it tells, then how it ended.
fn streamed<T, W, F>(work: W) -> Response
where
    T: Serialize + Send + 'static,
    W: FnOnce(Events) -> F,
    F: Future<Output = Result<T, ServiceError>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(64);
    let work = work(Events {
        sender: sender.clone(),
    });
    tokio::spawn(async move {
        let last = match work.await {
            Ok(done) => StreamEvent::Done(done),
            Err(error) => StreamEvent::Failed(Failure::from(&error)),
        };
        // Whoever asked may have gone.
        let _ = sender.send(line(&last)).await;
    });
    let lines = futures::stream::unfold(receiver, async |mut receiver| {
        let line = receiver.recv().await?;
        Some((line, receiver))
    });
    Response::new(Body::from_stream(lines.map(Ok::<_, Infallible>)))
}

fn line<T: Serialize>(event: &StreamEvent<T>) -> Bytes {
    // These types have no map keys or numbers that JSON could refuse.
    let mut line = serde_json::to_vec(event).unwrap_or_default();
    line.push(b'\n');
    line.into()
}
