//! Between wire and service: the routes of images.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    response::Response,
    routing::{get, post},
};
use container_api::{Images, PullRequest, PushRequest};

use crate::{
    http::{Reply, Shared, streamed},
    request::Asked,
};

/// All routes below `/v1/images`: see [`container_api`].
pub fn routes() -> Router<Shared> {
    Router::new()
        .route("/v1/images", get(list))
        .route("/v1/images/pull", post(pull))
        .route("/v1/images/push", post(push))
}

async fn list(State(shared): State<Shared>) -> Reply<Images> {
    Ok(Json(shared.service.list_images()?))
}

async fn pull(State(shared): State<Shared>, Asked(request): Asked<PullRequest>) -> Response {
    let service = Arc::clone(&shared.service);
    streamed(&shared, |caller| async move {
        service.pull_image(&request, &caller).await
    })
}

async fn push(State(shared): State<Shared>, Asked(request): Asked<PushRequest>) -> Response {
    let service = Arc::clone(&shared.service);
    streamed(&shared, |caller| async move {
        service.push_image(&request, &caller).await
    })
}
