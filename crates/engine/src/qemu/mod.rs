//! QEMU.

mod child;
mod command_line;
mod control;
mod disk;

use std::{
    env, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use tokio::{process::Child, time::timeout};

use crate::{
    AboutEngine, End, Engine, EngineError, EngineSettings, Running, VirtualMachine, accelerator,
};
use child::Inherited;
use command_line::CommandLine;
use control::Control;

const SYSTEM: &str = "qemu-system-x86_64";
const IMAGE_TOOL: &str = "qemu-img";

/// How long QEMU may take from its start to its control socket's first answer.
const START: Duration = Duration::from_secs(30);

/// How long it may take to write its disk back and quit.
const QUIT: Duration = Duration::from_secs(20);

/// QEMU on this host.
#[derive(Debug)]
pub struct Qemu {
    settings: EngineSettings,
}

impl Qemu {
    /// QEMU as configured.
    pub fn new(settings: &EngineSettings) -> Qemu {
        Qemu {
            settings: settings.clone(),
        }
    }

    async fn run(&self, machine: VirtualMachine) -> Result<Box<dyn Running>, EngineError> {
        let program = self.program()?;
        let accelerator = accelerator::choose(&self.settings)?;
        let start_failed = |source| EngineError::Start {
            program: program.display().to_string(),
            source,
        };
        let (control, control_of_qemu) = Control::pair().map_err(start_failed)?;
        let (mut inherited, log) = (Inherited::default(), machine.engine_log.clone());
        let log_begins = std::fs::metadata(&log).map_or(0, |log| log.len());
        let line = CommandLine::of(machine, accelerator, control_of_qemu, &mut inherited);
        let child =
            child::spawn(&program, line.arguments(), inherited, &log).map_err(start_failed)?;
        let mut running = RunningQemu {
            program: program.display().to_string(),
            child,
            control: None,
            log,
            log_begins,
        };
        match timeout(START, control.connect()).await {
            Ok(Ok(control)) => {
                running.control = Some(control);
                Ok(Box::new(running))
            }
            // It has ended or is of no use: its own words say why.
            Ok(Err(error)) => Err(running.refusal(&error.to_string()).await),
            Err(_) => Err(running
                .refusal("it does not answer on its control socket")
                .await),
        }
    }

    fn program(&self) -> Result<PathBuf, EngineError> {
        match &self.settings.program {
            Some(program) => find(&program.display().to_string()),
            None => find(SYSTEM),
        }
    }
}

/// Looks a program up on the search path, unless it is a path itself.
fn find(program: &str) -> Result<PathBuf, EngineError> {
    let missing = || EngineError::NoProgram {
        program: program.to_owned(),
    };
    if program.contains('/') {
        let path = PathBuf::from(program);
        return path.is_file().then_some(path).ok_or_else(missing);
    }
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
        .ok_or_else(missing)
}

impl Engine for Qemu {
    fn check(&self) -> Result<(), EngineError> {
        self.program()?;
        find(IMAGE_TOOL).map(drop)
    }

    fn about(&self) -> Result<AboutEngine, EngineError> {
        self.check()?;
        let program = self.program()?;
        let asked = Command::new(&program).arg("--version").output();
        let said = asked.map_err(|source| EngineError::Start {
            program: program.display().to_string(),
            source,
        })?;
        let said = String::from_utf8_lossy(&said.stdout);
        Ok(AboutEngine {
            version: said.lines().next().unwrap_or_default().to_owned(),
            program,
        })
    }

    fn start(
        &self,
        machine: VirtualMachine,
    ) -> BoxFuture<'_, Result<Box<dyn Running>, EngineError>> {
        // Not `Send` across threads by intent: the child is bound to the thread that starts it.
        self.run(machine).boxed()
    }

    fn create_overlay(&self, base: &Path, overlay: &Path) -> Result<(), EngineError> {
        let mut create = image_tool()?;
        create
            .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
            .args([base, overlay]);
        work(create, "making", overlay)
    }

    fn grow_disk(&self, disk: &Path, capacity: u64) -> Result<(), EngineError> {
        if self.capacity_of(disk)? >= capacity {
            return Ok(());
        }
        let mut resize = image_tool()?;
        resize
            .args(["resize", "-q", "-f", "qcow2"])
            .arg(disk)
            .arg(capacity.to_string());
        work(resize, "growing", disk)
    }

    fn capacity_of(&self, disk: &Path) -> Result<u64, EngineError> {
        disk::capacity_of(disk).map_err(|error| unreadable(disk, &error))
    }

    fn base_of(&self, disk: &Path) -> Result<Option<PathBuf>, EngineError> {
        disk::base_of(disk).map_err(|error| unreadable(disk, &error))
    }
}

fn unreadable(disk: &Path, error: &io::Error) -> EngineError {
    EngineError::Unreadable {
        path: disk.to_owned(),
        message: error.to_string(),
    }
}

fn image_tool() -> Result<Command, EngineError> {
    let mut tool = Command::new(find(IMAGE_TOOL)?);
    tool.stdin(Stdio::null());
    Ok(tool)
}

/// Has the image tool do its work on a disk.
fn work(mut tool: Command, doing: &'static str, disk: &Path) -> Result<(), EngineError> {
    let failed = |message: String| EngineError::Disk {
        doing,
        path: disk.to_owned(),
        message,
    };
    let output = tool.output().map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(failed(
        said.trim().trim_start_matches("qemu-img: ").to_owned(),
    ))
}

struct RunningQemu {
    program: String,
    child: Child,
    control: Option<Control>,
    log: PathBuf,
    log_begins: u64,
}

impl RunningQemu {
    /// Ends a QEMU that never became a machine, and quotes what it said.
    async fn refusal(&mut self, otherwise: &str) -> EngineError {
        // It may have ended already.
        let _ = self.child.start_kill();
        let _ = self.child.wait().await;
        let said = self.said().unwrap_or_default();
        EngineError::Refused {
            program: self.program.clone(),
            message: if said.is_empty() {
                otherwise.to_owned()
            } else {
                said
            },
        }
    }

    /// What this QEMU wrote to its log.
    fn said(&self) -> io::Result<String> {
        let log = std::fs::read(&self.log)?;
        let from = usize::try_from(self.log_begins).unwrap_or_default();
        let said = String::from_utf8_lossy(log.get(from..).unwrap_or_default());
        Ok(said.trim().to_owned())
    }
}

impl Running for RunningQemu {
    fn ended(&mut self) -> BoxFuture<'_, End> {
        async {
            match self.child.wait().await {
                Ok(status) if status.success() => End::Orderly,
                Ok(status) => End::Failed(format!(
                    "{} ended ({status}) {}",
                    self.program,
                    self.said().unwrap_or_default()
                )),
                Err(error) => End::Failed(format!("waiting for {}: {error}", self.program)),
            }
        }
        .boxed()
    }

    fn end(&mut self) -> BoxFuture<'_, ()> {
        async {
            if let Some(control) = self.control.take() {
                control.quit().await;
            }
            if timeout(QUIT, self.child.wait()).await.is_err() {
                // It may end in this very moment.
                let _ = self.child.start_kill();
                let _ = self.child.wait().await;
            }
        }
        .boxed()
    }
}
