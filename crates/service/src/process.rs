//! The service process.

use std::{
    env,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    process::ExitCode,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    extract::Request,
    middleware::{self, Next},
};
use container_image::ImageStore;
use container_machine::{Bundles, World};
use container_protocol::local;
use nix::fcntl::{Flock, FlockArg};
use tokio::{sync::Notify, time::sleep};

use crate::{
    Service,
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
        // Another service is there: as good as this one.
        return Ok(());
    };
    let bundles = Bundles::open(&world.data).map_err(|error| error.to_string())?;
    bundles
        .remove_leftovers()
        .map_err(|error| error.to_string())?;
    let images = ImageStore::open(&world.data.join("images")).map_err(|error| error.to_string())?;
    let events = tokio::runtime::Runtime::new()
        .map_err(|error| format!("starting the event loop: {error}"))?;
    events.block_on(serve(Service {
        world,
        bundles,
        images,
        locks: Locks::default(),
    }))
}

/// Takes the world's one place for a service; none if another keeps it.
fn succeed_to(world: &World) -> Result<Option<Flock<File>>, String> {
    let path = world.runtime.join("service.lock");
    let deadline = Instant::now() + SUCCESSION;
    loop {
        let file =
            File::create(&path).map_err(|error| format!("making {}: {error}", path.display()))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(Some(lock)),
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
    let use_of_service = Arc::new(UseOfService::default());
    let shared = Shared {
        service: Arc::new(service),
        retire: Arc::clone(&retire),
    };
    let counting = Arc::clone(&use_of_service);
    let counted = middleware::from_fn(move |request: Request, next: Next| {
        let counting = Arc::clone(&counting);
        async move { counting.during(next.run(request)).await }
    });
    let end = async move {
        tokio::select! {
            () = retire.notified() => {}
            () = use_of_service.idle() => {}
        }
        // Before the last request is answered, so that the next client starts a successor.
        let _ = fs::remove_file(&socket);
    };
    axum::serve(listener, router(shared).layer(counted))
        .with_graceful_shutdown(end)
        .await
        .map_err(|error| format!("serving: {error}"))
}

/// Counts requests, to know when there are none.
#[derive(Debug, Default)]
struct UseOfService {
    requests: AtomicUsize,
}

impl UseOfService {
    async fn during<T>(&self, request: impl Future<Output = T>) -> T {
        self.requests.fetch_add(1, Ordering::Relaxed);
        request.await
    }

    /// Waits for a stretch of time in which nothing was asked.
    async fn idle(&self) {
        loop {
            let before = self.requests.load(Ordering::Relaxed);
            sleep(IDLE).await;
            if self.requests.load(Ordering::Relaxed) == before {
                return;
            }
        }
    }
}
