//! The service process: its locks, socket and end.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use container_image::{ImageStore, StoreError};
use container_machine::{
    BoundedStderr, BundleError, Bundles, Directories, DirectoriesError, DiskReserve, ProcessLock,
    ProcessLockError, raise_open_files_limit,
};
use container_protocol::local;
use container_systemd::{Scope, ScopeError};
use nix::fcntl::{Flock, FlockArg};

use crate::{
    activity::Activity,
    build::build_id,
    http::{Shared, router},
    locks::Locks,
    moved_bases,
    retirement::Retirement,
    service::Service,
};

/// Time to wait for the previous service to end.
const PREDECESSOR_TIMEOUT: Duration = Duration::from_secs(10);

/// Time between systemd's SIGTERM and SIGKILL. The service ends at once, but a machine that could
/// not join a scope of its own is in this one.
const SCOPE_STOP_TIMEOUT: Duration = Duration::from_secs(115);

/// The service ends after this long without a request; the next request starts another.
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);

/// The service cannot start or continue.
#[derive(Debug, thiserror::Error)]
enum ServiceError {
    #[error(transparent)]
    Directories(#[from] DirectoriesError),
    #[error(transparent)]
    ProcessLock(#[from] ProcessLockError),
    #[error(transparent)]
    Bundles(#[from] BundleError),
    #[error("cannot lock {path}: {cause}")]
    DataLock { path: PathBuf, cause: io::Error },
    #[error(transparent)]
    Images(#[from] StoreError),
    #[error("cannot start the event loop: {0}")]
    EventLoop(io::Error),
    #[error("cannot listen on {path}: {cause}")]
    Listen { path: PathBuf, cause: io::Error },
    #[error("cannot accept connections: {0}")]
    Serve(io::Error),
}

/// Runs the role [`SERVICE_ROLE`](container_api::SERVICE_ROLE): serves the directories that the
/// environment names until the service is idle or replaced.
pub fn service_main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(|| BoundedStderr)
        .with_ansi(false)
        .with_max_level(tracing::Level::INFO)
        .init();
    // The first call reads the program's file, which an update may replace later.
    build_id();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), ServiceError> {
    // With its own session, the service does not end with the terminal it was started from. Fails
    // if this process leads a session already.
    let _ = nix::unistd::setsid();
    // Every request of a client needs some.
    if let Err(error) = raise_open_files_limit() {
        tracing::warn!("cannot raise the limit of open files: {error}");
    }
    let directories = Directories::from_environment()?;
    let lock = directories.runtime.join("service.lock");
    let Some(_lock) = ProcessLock::acquire(&lock, PREDECESSOR_TIMEOUT)? else {
        tracing::info!("another service holds {}", lock.display());
        return Ok(());
    };
    let bundles = Bundles::open(&directories.data)?;
    let _data_lock = clean_up(&directories.data, &bundles)?;
    let images = ImageStore::open(&directories.images())?;
    moved_bases::follow(&bundles, &images)?;
    let event_loop = tokio::runtime::Runtime::new().map_err(ServiceError::EventLoop)?;
    event_loop.block_on(join_scope());
    event_loop.block_on(serve(Service {
        reserve: DiskReserve::new(&directories.data),
        directories,
        bundles,
        images,
        locks: Locks::default(),
    }))
}

/// Leaves the cgroup of the client, with which the service would end.
async fn join_scope() {
    let scope = Scope {
        name: format!("container-service-{}.scope", std::process::id()),
        description: "Service of container".to_owned(),
        stop_timeout: SCOPE_STOP_TIMEOUT,
    };
    match scope.join().await {
        Ok(()) => {}
        Err(ScopeError::NoManager(reason)) => {
            tracing::info!("the service stays in the cgroup of its client: {reason}");
        }
        Err(error) => tracing::warn!("the service stays in the cgroup of its client: {error}"),
    }
}

/// Removes what a killed service left behind, unless another service uses the same data directory
/// with another runtime directory. Returns the shared lock by which such a service knows of this
/// one.
fn clean_up(data: &Path, bundles: &Bundles) -> Result<Flock<File>, ServiceError> {
    let path = data.join("lock");
    let failed = |cause: io::Error| ServiceError::DataLock {
        path: path.clone(),
        cause,
    };
    let open = || {
        File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
    };
    if let Ok(exclusive) = Flock::lock(open().map_err(failed)?, FlockArg::LockExclusiveNonblock) {
        bundles.remove_leftovers()?;
        drop(exclusive);
    }
    Flock::lock(open().map_err(failed)?, FlockArg::LockShared)
        .map_err(|(_, error)| failed(error.into()))
}

async fn serve(service: Service) -> Result<(), ServiceError> {
    let socket = service.directories.service_socket();
    let listener = local::listen(&socket).map_err(|cause| ServiceError::Listen {
        path: socket.clone(),
        cause,
    })?;
    let retirement = Arc::new(Retirement::default());
    let activity = Activity::default();
    let shared = Shared {
        service: Arc::new(service),
        activity: activity.clone(),
        retirement: Arc::clone(&retirement),
    };
    let end = {
        let activity = activity.clone();
        async move {
            tokio::select! {
                () = retirement.due(&activity) => {}
                () = activity.idle_for(IDLE_TIMEOUT) => {}
            }
            // Removed before the last request is answered, so that the next client starts a
            // successor.
            let _ = fs::remove_file(&socket);
        }
    };
    axum::serve(listener, router(shared))
        .with_graceful_shutdown(end)
        .await
        .map_err(ServiceError::Serve)?;
    // Tasks go on after their client has disconnected.
    activity.idle().await;
    Ok(())
}
