//! The routes of images.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Request, State},
    response::Response,
    routing::{get, post},
};
use container_api::{
    ImageDetails, Images, InspectRequest, PruneRequest, PullRequest, PushRequest, RemoveRequest,
    SaveRequest, TagRequest, Tagged,
};

use super::{
    refusal::Refusal,
    reply::{Reply, archive, completed, streamed},
    request::JsonBody,
    shared::Shared,
};

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/v1/images", get(list))
        .route("/v1/images/pull", post(pull))
        .route("/v1/images/push", post(push))
        .route("/v1/images/inspect", post(inspect))
        .route("/v1/images/tag", post(tag))
        .route("/v1/images/remove", post(remove))
        .route("/v1/images/prune", post(prune))
        .route("/v1/images/load", post(load))
        .route("/v1/images/save", post(save))
}

async fn list(State(shared): State<Shared>) -> Reply<Images> {
    Ok(Json(shared.service.list_images()?))
}

async fn pull(State(shared): State<Shared>, JsonBody(request): JsonBody<PullRequest>) -> Response {
    let service = Arc::clone(&shared.service);
    streamed(&shared, |client| async move {
        service.pull_image(&request, &client).await
    })
}

async fn push(State(shared): State<Shared>, JsonBody(request): JsonBody<PushRequest>) -> Response {
    let service = Arc::clone(&shared.service);
    streamed(&shared, |client| async move {
        service.push_image(&request, &client).await
    })
}

async fn inspect(
    State(shared): State<Shared>,
    JsonBody(request): JsonBody<InspectRequest>,
) -> Reply<Vec<ImageDetails>> {
    Ok(Json(shared.service.inspect_images(&request)?))
}

async fn tag(
    State(shared): State<Shared>,
    JsonBody(request): JsonBody<TagRequest>,
) -> Reply<Tagged> {
    let service = Arc::clone(&shared.service);
    completed(&shared, async move { service.tag_image(&request).await }).await
}

async fn remove(
    State(shared): State<Shared>,
    JsonBody(request): JsonBody<RemoveRequest>,
) -> Response {
    let service = Arc::clone(&shared.service);
    streamed(&shared, |client| async move {
        service.remove_images(&request, &client).await
    })
}

async fn prune(
    State(shared): State<Shared>,
    JsonBody(request): JsonBody<PruneRequest>,
) -> Response {
    let service = Arc::clone(&shared.service);
    streamed(&shared, |client| async move {
        service.prune_images(&request, &client).await
    })
}

async fn load(State(shared): State<Shared>, request: Request) -> Response {
    let service = Arc::clone(&shared.service);
    let archive = request.into_body().into_data_stream();
    streamed(&shared, |client| async move {
        service.load_images(archive, &client).await
    })
}

async fn save(
    State(shared): State<Shared>,
    JsonBody(request): JsonBody<SaveRequest>,
) -> Result<Response, Refusal> {
    Ok(archive(
        &shared,
        shared.service.save_images(&request).await?,
    ))
}
