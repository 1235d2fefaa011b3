//! The routes of the service and its host.

use axum::{
    Json, Router,
    extract::State,
    routing::{get, post},
};
use container_api::{Pong, SystemInfo};

use super::{reply::Reply, shared::Shared};
use crate::build::build_id;

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/v1/ping", get(ping))
        .route("/v1/retire", post(retire))
        .route("/v1/system", get(system))
}

async fn ping(State(shared): State<Shared>) -> Json<Pong> {
    Json(Pong {
        build: build_id(),
        data: shared.service.directories.data.clone(),
    })
}

async fn retire(State(shared): State<Shared>) -> Json<()> {
    shared.retire.notify_one();
    Json(())
}

async fn system(State(shared): State<Shared>) -> Reply<SystemInfo> {
    Ok(Json(shared.service.system()?))
}
