//! All routes, and what happens to every request.

use axum::{
    Router,
    extract::{Request, State},
    middleware::{self, Next},
    response::Response,
};

use super::{images, machines, refusal::Refusal, registries, shared::Shared, system};

/// Returns all routes of [`container_api`].
pub(crate) fn router(shared: Shared) -> Router {
    let counted = middleware::from_fn_with_state(shared.clone(), count);
    Router::new()
        .merge(machines::routes())
        .merge(images::routes())
        .merge(registries::routes())
        .merge(system::routes())
        .fallback(unknown)
        .method_not_allowed_fallback(unknown)
        .layer(counted)
        .with_state(shared)
}

/// Counts the request as activity until its reply begins. A client that waits for the end of the
/// service must not put it off.
async fn count(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let is_about_service = matches!(request.uri().path(), "/v1/ping" | "/v1/retire");
    let _guard = (!is_about_service).then(|| shared.activity.begin());
    next.run(request).await
}

async fn unknown(request: Request) -> Refusal {
    let (method, path) = (request.method(), request.uri().path());
    Refusal::invalid(format!("unknown request: {method} {path}"))
}
