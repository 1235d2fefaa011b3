//! The routes of the service and its host.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    response::Response,
    routing::{get, post},
};
use container_api::{API_VERSION, DiskUsage, Pong, PruneRequest, SystemInfo};

use super::{
    reply::{Reply, streamed},
    request::JsonBody,
    shared::Shared,
};
use crate::build::build_id;

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/v1/ping", get(ping))
        .route("/v1/retire", post(retire))
        .route("/v1/system", get(system))
        .route("/v1/system/disk-usage", get(disk_usage))
        .route("/v1/system/prune", post(prune))
}

async fn ping(State(shared): State<Shared>) -> Json<Pong> {
    Json(Pong {
        api: API_VERSION,
        build: build_id(),
        is_retiring: shared.retirement.is_delayed(),
        data: shared.service.directories.data.clone(),
    })
}

async fn retire(State(shared): State<Shared>) -> Json<()> {
    shared.retirement.request(shared.activity.count() > 0);
    Json(())
}

async fn system(State(shared): State<Shared>) -> Reply<SystemInfo> {
    Ok(Json(shared.service.system().await?))
}

async fn disk_usage(State(shared): State<Shared>) -> Reply<DiskUsage> {
    Ok(Json(shared.service.disk_usage().await?))
}

async fn prune(
    State(shared): State<Shared>,
    JsonBody(request): JsonBody<PruneRequest>,
) -> Response {
    let service = Arc::clone(&shared.service);
    streamed(&shared, |client| async move {
        service.prune(&request, &client).await
    })
}
