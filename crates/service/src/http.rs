//! Between wire and service: routes, bodies, streams.

use std::{convert::Infallible, sync::Arc};

use axum::{
    Json, Router,
    body::Body,
    extract::{Request, State},
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use container_api::{
    BootChange, Changed, CommitRequest, CreateRequest, Created, DefaultMachine, Deleted, Failure,
    FailureKind, ListLogins, LogIn, LogOut, LoggedOut, Login, Logins, Logs, Machines, Pong, Ports,
    Rename, Snapshot, SystemInfo,
};
use container_machine::BundleError;
use futures::StreamExt;
use serde::Serialize;
use tokio::sync::Notify;

use crate::{
    Service,
    activity::Activity,
    caller::Caller,
    error::ServiceError,
    process::build_id,
    request::{Asked, Named},
};

/// What the routes share.
#[derive(Debug, Clone)]
pub struct Shared {
    /// The machines.
    pub service: Arc<Service>,
    /// What goes on.
    pub activity: Activity,
    /// Told when a client wants another service in this one's place.
    pub retire: Arc<Notify>,
}

/// All routes: see [`container_api`].
pub fn router(shared: Shared) -> Router {
    let counted = middleware::from_fn_with_state(shared.clone(), count);
    Router::new()
        .route("/v1/ping", get(ping))
        .route("/v1/retire", post(retire))
        .route("/v1/machines", get(list).post(create))
        .route("/v1/machines/{id}", get(inspect).patch(set).delete(delete))
        .route("/v1/machines/{id}/boot", post(boot))
        .route("/v1/machines/{id}/commit", post(commit))
        .route("/v1/machines/{id}/stop", post(stop))
        .route("/v1/machines/{id}/rename", post(rename))
        .route("/v1/machines/{id}/logs", get(logs))
        .route("/v1/machines/{id}/ports", get(ports))
        .route("/v1/registries/login", post(log_in))
        .route("/v1/registries/logout", post(log_out))
        .route("/v1/registries/logins", post(logins))
        .route("/v1/system", get(system))
        .route("/v1/default", get(default_machine).put(set_default))
        .merge(crate::images::routes())
        .fallback(unknown)
        .method_not_allowed_fallback(unknown)
        .layer(counted)
        .with_state(shared)
}

/// A failure on its way to the wire.
pub struct Refusal(ServiceError);

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

pub type Reply<T> = Result<Json<T>, Refusal>;

async fn count(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let _work = shared.activity.begin();
    next.run(request).await
}

async fn unknown(request: Request) -> Refusal {
    let (method, path) = (request.method(), request.uri().path());
    Refusal(ServiceError::Invalid(format!(
        "the service knows no request {method} {path}"
    )))
}

async fn ping(State(shared): State<Shared>) -> Json<Pong> {
    Json(Pong {
        build: build_id(),
        data: shared.service.world.data.clone(),
    })
}

async fn retire(State(shared): State<Shared>) -> Json<()> {
    shared.retire.notify_one();
    Json(())
}

async fn system(State(shared): State<Shared>) -> Reply<SystemInfo> {
    Ok(Json(shared.service.system()?))
}

async fn list(State(shared): State<Shared>) -> Reply<Machines> {
    Ok(Json(shared.service.snapshots().await?))
}

async fn inspect(State(shared): State<Shared>, Named(id): Named) -> Reply<Snapshot> {
    Ok(Json(shared.service.snapshot(&id).await?))
}

async fn set(
    State(shared): State<Shared>,
    Named(id): Named,
    Asked(change): Asked<BootChange>,
) -> Reply<Changed> {
    Ok(Json(shared.service.set(&id, &change).await?))
}

async fn delete(State(shared): State<Shared>, Named(id): Named) -> Reply<Deleted> {
    let service = Arc::clone(&shared.service);
    carried_through(&shared, async move { service.delete(&id).await }).await
}

async fn stop(State(shared): State<Shared>, Named(id): Named) -> Reply<()> {
    let service = Arc::clone(&shared.service);
    carried_through(&shared, async move { service.stop(&id).await }).await
}

async fn rename(
    State(shared): State<Shared>,
    Named(id): Named,
    Asked(rename): Asked<Rename>,
) -> Reply<()> {
    let service = Arc::clone(&shared.service);
    let renaming = async move { service.rename(&id, &rename.to).await };
    carried_through(&shared, renaming).await
}

async fn logs(State(shared): State<Shared>, Named(id): Named) -> Reply<Logs> {
    let bundle = shared.service.bundles.get(&id)?;
    Ok(Json(Logs {
        stdio: bundle.stdio_log(),
        boot: bundle.boot_log(),
    }))
}

async fn ports(State(shared): State<Shared>, Named(id): Named) -> Reply<Ports> {
    Ok(Json(shared.service.ports(&id).await?))
}

async fn log_in(State(shared): State<Shared>, Asked(request): Asked<LogIn>) -> Reply<Login> {
    Ok(Json(shared.service.log_in(request).await?))
}

async fn log_out(State(shared): State<Shared>, Asked(request): Asked<LogOut>) -> Reply<LoggedOut> {
    Ok(Json(shared.service.log_out(request).await?))
}

async fn logins(State(shared): State<Shared>, Asked(request): Asked<ListLogins>) -> Reply<Logins> {
    Ok(Json(shared.service.logins(request).await?))
}

async fn default_machine(State(shared): State<Shared>) -> Reply<DefaultMachine> {
    let default = shared.service.bundles.default_machine()?;
    let id = match default {
        Some(id) => id,
        None if shared.service.bundles.ids()?.is_empty() => {
            return Err(BundleError::NoMachines.into());
        }
        None => return Err(BundleError::NoDefault.into()),
    };
    Ok(Json(DefaultMachine { id }))
}

async fn set_default(
    State(shared): State<Shared>,
    Asked(default): Asked<DefaultMachine>,
) -> Reply<()> {
    shared.service.bundles.set_default_machine(&default.id)?;
    Ok(Json(()))
}

async fn create(State(shared): State<Shared>, Asked(request): Asked<CreateRequest>) -> Response {
    let service = Arc::clone(&shared.service);
    streamed(&shared, |caller| async move {
        let id = service.create(&request, &caller).await?;
        Ok(Created { id })
    })
}

async fn boot(State(shared): State<Shared>, Named(id): Named) -> Response {
    let service = Arc::clone(&shared.service);
    streamed(
        &shared,
        |caller| async move { service.boot(&id, &caller).await },
    )
}

async fn commit(
    State(shared): State<Shared>,
    Named(id): Named,
    Asked(request): Asked<CommitRequest>,
) -> Response {
    let service = Arc::clone(&shared.service);
    streamed(&shared, |caller| async move {
        service.commit(&id, request, &caller).await
    })
}

/// Carries work out on a task of its own, so that it ends even if whoever asked goes away.
pub async fn carried_through<T: Send + 'static>(
    shared: &Shared,
    work: impl Future<Output = Result<T, ServiceError>> + Send + 'static,
) -> Reply<T> {
    let going_on = shared.activity.begin();
    let done = tokio::spawn(async move {
        let done = work.await;
        drop(going_on);
        done
    });
    Ok(Json(done.await.map_err(|_| ServiceError::Crashed)??))
}

/// Carries work out on a task of its own, and streams what it tells, then how it ended.
pub fn streamed<T, W, F>(shared: &Shared, work: W) -> Response
where
    T: Serialize + Send + 'static,
    W: FnOnce(Caller) -> F,
    F: Future<Output = Result<T, ServiceError>> + Send + 'static,
{
    let (caller, lines) = Caller::new();
    let (work, going_on) = (work(caller.clone()), shared.activity.begin());
    tokio::spawn(async move {
        caller.finish(work.await).await;
        drop(going_on);
    });
    let lines = futures::stream::unfold(lines, async |mut lines| {
        let line = lines.recv().await?;
        Some((line, lines))
    });
    Response::new(Body::from_stream(lines.map(Ok::<_, Infallible>)))
}
