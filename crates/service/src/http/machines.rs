//! The routes of machines, and of the default machine.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Request, State},
    response::Response,
    routing::{get, post},
};
use container_api::{
    BootChange, BootRequest, Changed, CheckMachineRequest, CloneRequest, CommitRequest,
    CreateRequest, Created, DefaultMachine, Deleted, ExportRequest, ImportRequest, Logs,
    MachineState, Machines, Ports, RemoveSnapshotRequest, RenameRequest, RestoreRequest,
    SnapshotRequest, Snapshots, SshClientFiles, StopRequest, SuspendRequest,
};
use container_protocol::SshServer;

use super::{
    refusal::Refusal,
    reply::{Reply, archive, completed, streamed},
    request::{JsonBody, MachinePath, UrlQuery},
    shared::Shared,
};
use crate::machines::CloneError;

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/v1/machines", get(list).post(create))
        .route("/v1/machines/{id}", get(inspect).patch(set).delete(delete))
        .route("/v1/machines/{id}/boot", post(boot))
        .route("/v1/machines/{id}/check", post(check))
        .route("/v1/machines/{id}/commit", post(commit))
        .route("/v1/machines/{id}/export", post(export))
        .route("/v1/import", post(import))
        .route("/v1/machines/{id}/stop", post(stop))
        .route("/v1/machines/{id}/suspend", post(suspend))
        .route("/v1/machines/{id}/rename", post(rename))
        .route("/v1/machines/{id}/clone", post(clone_machine))
        .route(
            "/v1/machines/{id}/snapshots",
            get(snapshots).post(create_snapshot),
        )
        .route("/v1/machines/{id}/snapshots/restore", post(restore))
        .route("/v1/machines/{id}/snapshots/remove", post(remove_snapshot))
        .route("/v1/machines/{id}/logs", get(logs))
        .route("/v1/machines/{id}/ports", get(ports))
        .route("/v1/machines/{id}/ssh", post(ssh_server))
        .route("/v1/ssh", post(ssh_client_files))
        .route("/v1/default", get(default_machine).put(set_default))
}

async fn list(State(shared): State<Shared>) -> Reply<Machines> {
    Ok(Json(shared.service.states().await?))
}

async fn create(
    State(shared): State<Shared>,
    JsonBody(request): JsonBody<CreateRequest>,
) -> Response {
    let service = Arc::clone(&shared.service);
    streamed(&shared, |client| async move {
        let created = service.create(&request, &client).await;
        created.map(|id| Created { id })
    })
}

async fn inspect(
    State(shared): State<Shared>,
    MachinePath(id): MachinePath,
) -> Reply<MachineState> {
    Ok(Json(shared.service.state(&id).await?))
}

async fn set(
    State(shared): State<Shared>,
    MachinePath(id): MachinePath,
    JsonBody(change): JsonBody<BootChange>,
) -> Reply<Changed> {
    Ok(Json(shared.service.set(&id, &change).await?))
}

async fn delete(State(shared): State<Shared>, MachinePath(id): MachinePath) -> Reply<Deleted> {
    let service = Arc::clone(&shared.service);
    completed(&shared, async move { service.delete(&id).await }).await
}

async fn boot(
    State(shared): State<Shared>,
    MachinePath(id): MachinePath,
    JsonBody(request): JsonBody<BootRequest>,
) -> Response {
    let service = Arc::clone(&shared.service);
    streamed(&shared, |client| async move {
        service.boot(&id, &request, &client).await
    })
}

async fn check(
    State(shared): State<Shared>,
    MachinePath(id): MachinePath,
    JsonBody(request): JsonBody<CheckMachineRequest>,
) -> Response {
    let service = Arc::clone(&shared.service);
    streamed(&shared, |client| async move {
        service.check(&id, &request, &client).await
    })
}

async fn commit(
    State(shared): State<Shared>,
    MachinePath(id): MachinePath,
    JsonBody(request): JsonBody<CommitRequest>,
) -> Response {
    let service = Arc::clone(&shared.service);
    streamed(&shared, |client| async move {
        service.commit(&id, request, &client).await
    })
}

async fn export(
    State(shared): State<Shared>,
    MachinePath(id): MachinePath,
    JsonBody(request): JsonBody<ExportRequest>,
) -> Result<Response, Refusal> {
    Ok(archive(
        &shared,
        shared.service.export(&id, &request).await?,
    ))
}

async fn import(
    State(shared): State<Shared>,
    UrlQuery(import): UrlQuery<ImportRequest>,
    request: Request,
) -> Response {
    let service = Arc::clone(&shared.service);
    let archive = request.into_body().into_data_stream();
    streamed(&shared, |client| async move {
        service.import(import, archive, &client).await
    })
}

async fn stop(
    State(shared): State<Shared>,
    MachinePath(id): MachinePath,
    JsonBody(request): JsonBody<StopRequest>,
) -> Reply<()> {
    let service = Arc::clone(&shared.service);
    completed(&shared, async move { service.stop(&id, &request).await }).await
}

async fn suspend(
    State(shared): State<Shared>,
    MachinePath(id): MachinePath,
    JsonBody(request): JsonBody<SuspendRequest>,
) -> Response {
    let service = Arc::clone(&shared.service);
    streamed(&shared, |client| async move {
        service.suspend(&id, &request, &client).await
    })
}

async fn rename(
    State(shared): State<Shared>,
    MachinePath(id): MachinePath,
    JsonBody(rename): JsonBody<RenameRequest>,
) -> Reply<()> {
    let service = Arc::clone(&shared.service);
    completed(
        &shared,
        async move { service.rename(&id, &rename.to).await },
    )
    .await
}

async fn clone_machine(
    State(shared): State<Shared>,
    MachinePath(id): MachinePath,
    JsonBody(request): JsonBody<CloneRequest>,
) -> Reply<Created> {
    let service = Arc::clone(&shared.service);
    completed(&shared, async move {
        service.clone_machine(&id, &request).await?;
        Ok::<_, CloneError>(Created { id: request.to })
    })
    .await
}

async fn snapshots(State(shared): State<Shared>, MachinePath(id): MachinePath) -> Reply<Snapshots> {
    Ok(Json(shared.service.snapshots(&id).await?))
}

async fn create_snapshot(
    State(shared): State<Shared>,
    MachinePath(id): MachinePath,
    JsonBody(request): JsonBody<SnapshotRequest>,
) -> Response {
    let service = Arc::clone(&shared.service);
    streamed(&shared, |client| async move {
        service.create_snapshot(&id, request, &client).await
    })
}

async fn restore(
    State(shared): State<Shared>,
    MachinePath(id): MachinePath,
    JsonBody(request): JsonBody<RestoreRequest>,
) -> Reply<()> {
    let service = Arc::clone(&shared.service);
    completed(&shared, async move { service.restore(&id, &request).await }).await
}

async fn remove_snapshot(
    State(shared): State<Shared>,
    MachinePath(id): MachinePath,
    JsonBody(request): JsonBody<RemoveSnapshotRequest>,
) -> Reply<()> {
    let service = Arc::clone(&shared.service);
    completed(&shared, async move {
        service.remove_snapshot(&id, &request.name).await
    })
    .await
}

async fn logs(State(shared): State<Shared>, MachinePath(id): MachinePath) -> Reply<Logs> {
    let bundle = shared.service.bundles.get(&id)?;
    Ok(Json(Logs {
        stdio: bundle.stdio_log(),
        boot: bundle.boot_log(),
    }))
}

async fn ports(State(shared): State<Shared>, MachinePath(id): MachinePath) -> Reply<Ports> {
    Ok(Json(shared.service.ports(&id).await?))
}

async fn ssh_server(
    State(shared): State<Shared>,
    MachinePath(id): MachinePath,
) -> Reply<SshServer> {
    Ok(Json(shared.service.ssh_server(&id)?))
}

async fn ssh_client_files(State(shared): State<Shared>) -> Reply<SshClientFiles> {
    Ok(Json(shared.service.ssh_client_files()?))
}

async fn default_machine(State(shared): State<Shared>) -> Reply<DefaultMachine> {
    let id = shared.service.bundles.require_default_machine()?;
    Ok(Json(DefaultMachine { id }))
}

async fn set_default(
    State(shared): State<Shared>,
    JsonBody(default): JsonBody<DefaultMachine>,
) -> Reply<()> {
    shared.service.bundles.set_default_machine(&default.id)?;
    Ok(Json(()))
}
