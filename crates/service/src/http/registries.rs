//! The routes of registries.

use axum::{Json, Router, extract::State, routing::post};
use container_api::{ListLoginsRequest, LoggedOut, Login, LoginRequest, Logins, LogoutRequest};

use super::{reply::Reply, request::JsonBody, shared::Shared};

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/v1/registries/login", post(log_in))
        .route("/v1/registries/logout", post(log_out))
        .route("/v1/registries/logins", post(logins))
}

async fn log_in(
    State(shared): State<Shared>,
    JsonBody(request): JsonBody<LoginRequest>,
) -> Reply<Login> {
    Ok(Json(shared.service.log_in(request).await?))
}

async fn log_out(
    State(shared): State<Shared>,
    JsonBody(request): JsonBody<LogoutRequest>,
) -> Reply<LoggedOut> {
    Ok(Json(shared.service.log_out(request).await?))
}

async fn logins(
    State(shared): State<Shared>,
    JsonBody(request): JsonBody<ListLoginsRequest>,
) -> Reply<Logins> {
    Ok(Json(shared.service.logins(request).await?))
}
