//! Between wire and service: the routes of images.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{HeaderValue, header::TRAILER},
    response::Response,
    routing::{get, post},
};
use container_api::{
    FAILURE_TRAILER, ImageDetails, Images, InspectRequest, PruneRequest, PullRequest, PushRequest,
    RemoveRequest, SaveRequest, TagRequest, Tagged,
};

use crate::{
    http::{Refusal, Reply, Shared, carried_through, streamed},
    request::Asked,
};

/// All routes below `/v1/images`: see [`container_api`].
pub fn routes() -> Router<Shared> {
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

async fn inspect(
    State(shared): State<Shared>,
    Asked(request): Asked<InspectRequest>,
) -> Reply<Vec<ImageDetails>> {
    Ok(Json(shared.service.inspect_images(&request)?))
}

async fn tag(State(shared): State<Shared>, Asked(request): Asked<TagRequest>) -> Reply<Tagged> {
    let service = Arc::clone(&shared.service);
    carried_through(&shared, async move { service.tag_image(&request).await }).await
}

async fn remove(State(shared): State<Shared>, Asked(request): Asked<RemoveRequest>) -> Response {
    let service = Arc::clone(&shared.service);
    streamed(&shared, |caller| async move {
        service.remove_images(&request, &caller).await
    })
}

async fn prune(State(shared): State<Shared>, Asked(request): Asked<PruneRequest>) -> Response {
    let service = Arc::clone(&shared.service);
    streamed(&shared, |caller| async move {
        service.prune_images(&request, &caller).await
    })
}

async fn load(State(shared): State<Shared>, request: Request) -> Response {
    let service = Arc::clone(&shared.service);
    let archive = request.into_body().into_data_stream();
    streamed(&shared, |caller| async move {
        service.load_images(archive, &caller).await
    })
}

async fn save(
    State(shared): State<Shared>,
    Asked(request): Asked<SaveRequest>,
) -> Result<Response, Refusal> {
    let mut response = Response::new(shared.service.save_images(&request).await?);
    let trailer = HeaderValue::from_static(FAILURE_TRAILER);
    response.headers_mut().insert(TRAILER, trailer);
    Ok(response)
}
