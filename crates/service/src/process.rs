//! The service process.

use std::{
    env,
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::MetadataExt,
    process::ExitCode,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use container_image::ImageStore;
use container_machine::{Bundles, World};
use container_protocol::local;
use nix::fcntl::{Flock, FlockArg};
use tokio::sync::Notify;

use crate::{
    Service,
    activity::Activity,
    http::{Shared, router},
    locks::Locks,
};

/// How long a service waits for the one before it to end.
const SUCCESSION: Duration = Duration::from_secs(10);

/// A service that nobody has asked anything for so long ends; the next request starts another.
const IDLE: Duration = Duration::from_secs(600);

/// Tells one build of the program from another: its file's path, size and time.
pub fn build_id() -> String {
    static BUILD: OnceLock<String> = OnceLock::new();
    BUILD
        .get_or_init(|| {
            let version = env!("CARGO_PKG_VERSION");
            let program = env::current_exe().unwrap_or_default();
            match fs::metadata(&program) {
                Ok(about) => format!(
                    "{version} {} {} {}.{}",
                    program.display(),
                    about.len(),
                    about.mtime(),
                    about.mtime_nsec()
                ),
                Err(_) => version.to_owned(),
            }
        })
        .clone()
}

/// The role [`SERVICE_ROLE`](container_api::SERVICE_ROLE): serves this world until nobody needs it.
pub fn service_main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(false)
        .with_max_level(tracing::Level::INFO)
        .init();
    // Read while the program's file is still the one that runs.
    build_id();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            tracing::error!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    // A session of its own: no terminal's end is the service's. Fails where it leads one already.
    let _ = nix::unistd::setsid();
    let world = World::of_environment().map_err(|error| error.to_string())?;
    let Some(_lock) = succeed_to(&world)? else {
        tracing::info!("another service keeps this world: this one is not needed");
        return Ok(());
    };
    let bundles = Bundles::open(&world.data).map_err(|error| error.to_string())?;
    let _data_lock = clean_up(&world, &bundles)?;
    let images = ImageStore::open(&world.images()).map_err(|error| error.to_string())?;
    let events = tokio::runtime::Runtime::new()
        .map_err(|error| format!("starting the event loop: {error}"))?;
    events.block_on(serve(Service {
        world,
        bundles,
        images,
        locks: Locks::default(),
    }))
}

/// Removes what a killed service left, unless another one works on the same data, started with
/// other runtime directories. Returns the lock that tells of this one.
fn clean_up(world: &World, bundles: &Bundles) -> Result<Flock<File>, String> {
    let path = world.data.join("lock");
    let failed = |error: io::Error| format!("locking {}: {error}", path.display());
    let file = || {
        File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
    };
    if let Ok(alone) = Flock::lock(file().map_err(failed)?, FlockArg::LockExclusiveNonblock) {
        bundles
            .remove_leftovers()
            .map_err(|error| error.to_string())?;
        drop(alone);
    }
    Flock::lock(file().map_err(failed)?, FlockArg::LockShared)
        .map_err(|(_, error)| failed(error.into()))
}

/// Takes the world's one place for a service, the lock on `service.lock`, which names the process
/// that holds it; none if another keeps it.
fn succeed_to(world: &World) -> Result<Option<Flock<File>>, String> {
    let path = world.runtime.join("service.lock");
    let deadline = Instant::now() + SUCCESSION;
    loop {
        // Not emptied before the lock is held: it names the process that holds it.
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path);
        let file = file.map_err(|error| format!("making {}: {error}", path.display()))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => {
                let named = lock.set_len(0).and_then(|()| {
                    let mut file: &File = &lock;
                    writeln!(file, "{}", std::process::id())
                });
                named.map_err(|error| format!("writing {}: {error}", path.display()))?;
                return Ok(Some(lock));
            }
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
            Err(_) => return Ok(None),
        }
    }
}

async fn serve(service: Service) -> Result<(), String> {
    let socket = service.world.service_socket();
    let listener = local::listen(&socket)
        .map_err(|error| format!("listening on {}: {error}", socket.display()))?;
    let retire = Arc::new(Notify::new());
    let activity = Activity::default();
    let shared = Shared {
        service: Arc::new(service),
        activity: activity.clone(),
        retire: Arc::clone(&retire),
    };
    let end = {
        let activity = activity.clone();
        async move {
            tokio::select! {
                () = retire.notified() => {}
                () = activity.none_for(IDLE) => {}
            }
            // Before the last request is answered, so that the next client starts a successor.
            let _ = fs::remove_file(&socket);
        }
    };
    axum::serve(listener, router(shared))
        .with_graceful_shutdown(end)
        .await
        .map_err(|error| format!("serving: {error}"))?;
    // What goes on though whoever asked for it has gone.
    activity.none().await;
    Ok(())
}
