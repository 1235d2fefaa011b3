//! Restricts the system calls of this process with seccomp (Linux,
//! Documentation/userspace-api/seccomp_filter.rst).
//!
//! The process serves untrusted guests, so it can make no call that it does not need. It must not
//! die of one either, because the machine dies with it. So there are two filters:
//!
//! - [`ALLOWED`] calls are made, and all others fail with `ENOSYS`, as on a kernel that lacks them.
//!   Libraries have an alternative for calls that a kernel may lack, or report an error.
//! - [`FORBIDDEN`] calls kill the process. No code of it makes them, so it runs an attacker's.
//!
//! `ALLOWED` began as the list of virtiofsd's own program, whose library makes most of the calls,
//! without what opens files by handle or starts processes. Added are the calls of this crate, and
//! those of the kernel, the C library and Rust's standard library in rare situations: after a stop
//! (`restart_syscall`), a panic, or with another kernel or C library. To find others, run a share
//! with `strace -f -e status=failed` and look for `ENOSYS`.

use std::{collections::BTreeMap, env::consts::ARCH, io};

use seccompiler::{
    BackendError, BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp,
    SeccompCondition, SeccompFilter, SeccompRule, apply_filter,
};

/// Calls with any arguments.
const ALLOWED: &[libc::c_long] = &[
    // Files.
    libc::SYS_close,
    libc::SYS_copy_file_range,
    libc::SYS_dup,
    libc::SYS_fallocate,
    libc::SYS_fanotify_mark,
    libc::SYS_fchdir,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchownat,
    libc::SYS_fcntl,
    libc::SYS_fdatasync,
    libc::SYS_fgetxattr,
    libc::SYS_flistxattr,
    libc::SYS_flock,
    libc::SYS_fremovexattr,
    libc::SYS_fsetxattr,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_getxattr,
    libc::SYS_linkat,
    libc::SYS_listxattr,
    libc::SYS_lseek,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_name_to_handle_at,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_removexattr,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_setxattr,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_symlinkat,
    libc::SYS_syncfs,
    libc::SYS_umask,
    libc::SYS_unlinkat,
    libc::SYS_utimensat,
    libc::SYS_write,
    libc::SYS_writev,
    // The engine, and waiting.
    libc::SYS_accept4,
    libc::SYS_clock_nanosleep,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_futex,
    libc::SYS_nanosleep,
    libc::SYS_ppoll,
    libc::SYS_recvmsg,
    libc::SYS_restart_syscall,
    libc::SYS_sched_yield,
    libc::SYS_sendmsg,
    // Users and their capabilities.
    libc::SYS_capget,
    libc::SYS_capset,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getgroups,
    libc::SYS_getuid,
    libc::SYS_setgroups,
    libc::SYS_setresgid,
    libc::SYS_setresuid,
    // Memory, threads and signals.
    libc::SYS_brk,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_prctl,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_tgkill,
    libc::SYS_tkill,
    // Time and chance.
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_getrandom,
    libc::SYS_gettimeofday,
];

/// Older forms of the same calls.
#[cfg(target_arch = "x86_64")]
const ALLOWED_OLD: &[libc::c_long] = &[
    libc::SYS_epoll_wait,
    libc::SYS_getdents,
    libc::SYS_lstat,
    libc::SYS_open,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_stat,
    libc::SYS_time,
    libc::SYS_unlink,
];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_OLD: &[libc::c_long] = &[];

/// Calls with these flags, at least, in the first argument. `clone3` is not among them, because the
/// filter does not see its flags; the C library uses `clone` instead.
const ALLOWED_FLAGS: &[(libc::c_long, libc::c_int)] = &[
    (libc::SYS_clone, libc::CLONE_THREAD),
    (libc::SYS_unshare, libc::CLONE_FS),
];

/// Calls that only an attacker makes: they start programs, reach other processes, networks and
/// files, and the parts of the kernel that attacks use.
const FORBIDDEN: &[libc::c_long] = &[
    libc::SYS_add_key,
    libc::SYS_bind,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_connect,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_finit_module,
    libc::SYS_fsopen,
    libc::SYS_init_module,
    libc::SYS_io_uring_setup,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_mount,
    libc::SYS_move_mount,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_request_key,
    libc::SYS_setns,
    libc::SYS_socket,
    libc::SYS_umount2,
    libc::SYS_userfaultfd,
];

/// Restricts the system calls of the calling thread, and of those that it starts afterwards.
pub(crate) fn restrict() -> io::Result<()> {
    let failed = |error: Error| match error {
        Error::Prctl(cause) | Error::Seccomp(cause) => cause,
        other => io::Error::other(other),
    };
    let programs = programs().map_err(io::Error::other)?;
    programs
        .iter()
        .try_for_each(|program| apply_filter(program).map_err(failed))
}

fn programs() -> Result<[BpfProgram; 2], BackendError> {
    let unconditional = |calls: &[libc::c_long]| {
        let rules = calls.iter().map(|call| (*call, Vec::new()));
        rules.collect::<BTreeMap<i64, Vec<SeccompRule>>>()
    };
    let mut allowed = unconditional(ALLOWED);
    allowed.append(&mut unconditional(ALLOWED_OLD));
    for (call, flags) in ALLOWED_FLAGS {
        allowed.insert(*call, vec![has_flags(*flags)?]);
    }
    let architecture = ARCH.try_into()?;
    let missing = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let allow = SeccompFilter::new(allowed, missing, SeccompAction::Allow, architecture)?;
    let forbid = SeccompFilter::new(
        unconditional(FORBIDDEN),
        SeccompAction::Allow,
        SeccompAction::KillProcess,
        architecture,
    )?;
    // The filter that is applied first must allow to apply the other.
    Ok([forbid.try_into()?, allow.try_into()?])
}

fn has_flags(flags: libc::c_int) -> Result<SeccompRule, BackendError> {
    let flags = u64::from(flags.unsigned_abs());
    let operator = SeccompCmpOp::MaskedEq(flags);
    let condition = SeccompCondition::new(0, SeccompCmpArgLen::Qword, operator, flags)?;
    SeccompRule::new(vec![condition])
}

#[cfg(test)]
mod tests {
    use std::{
        env, fs,
        io::{BufRead, BufReader, Read},
        os::unix::{net::UnixStream, process::ExitStatusExt},
        panic,
        process::{Child, Command, ExitStatus, Stdio},
        sync::{
            Condvar, Mutex,
            atomic::{AtomicBool, Ordering},
        },
        thread,
        time::Duration,
    };

    use nix::{
        poll::{PollTimeout, poll},
        sys::signal::{Signal, kill},
        unistd::Pid,
    };

    use super::*;

    /// Variable that makes [`restricted_process`] do something.
    const ACTION: &str = "RESTRICTED_PROCESS";

    /// Timeout of a wait that is interrupted.
    const TIMEOUT: Duration = Duration::from_millis(100);

    /// What a restricted process does.
    const ACTIONS: [(&str, fn()); 4] = [
        ("wait", wait_in_several_ways),
        ("panic", panic_in_threads),
        ("connect", || drop(UnixStream::connect("/nonexistent"))),
        ("abort", || std::process::abort()),
    ];

    /// The restricted processes of other tests: this program, started again.
    #[test]
    fn restricted_process() {
        let Ok(action) = env::var(ACTION) else {
            return;
        };
        restrict().unwrap();
        println!("restricted");
        ACTIONS.iter().find(|(name, _)| *name == action).unwrap().1();
    }

    /// Waits with timeouts, again and again, until standard input ends.
    fn wait_in_several_ways() {
        static IS_OVER: AtomicBool = AtomicBool::new(false);
        let waits: [fn(); 3] = [
            || thread::sleep(TIMEOUT),
            || {
                poll(&mut [], PollTimeout::try_from(TIMEOUT).unwrap()).unwrap();
            },
            || {
                let (mutex, condition) = (Mutex::new(()), Condvar::new());
                drop(condition.wait_timeout(mutex.lock().unwrap(), TIMEOUT));
            },
        ];
        let threads = waits.map(|wait| {
            thread::spawn(move || {
                while !IS_OVER.load(Ordering::Relaxed) {
                    wait();
                }
            })
        });
        io::stdin().read_to_end(&mut Vec::new()).unwrap();
        IS_OVER.store(true, Ordering::Relaxed);
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
    }

    fn panic_in_threads() {
        for _ in 0..3 {
            let thread = thread::spawn(|| {
                let _memory = vec![1_u8; 64 << 20];
                let result = panic::catch_unwind(|| panic!("expected"));
                assert!(result.is_err());
                panic!("expected");
            });
            assert!(thread.join().is_err());
        }
    }

    /// Starts a restricted process, and waits until it is restricted.
    fn start(action: &str) -> Child {
        let mut process = Command::new(env::current_exe().unwrap())
            .args([
                "--exact",
                "system_calls::tests::restricted_process",
                "--nocapture",
            ])
            .env(ACTION, action)
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let output = process.stdout.as_mut().unwrap();
        let lines = BufReader::new(output).lines().map_while(Result::ok);
        assert!(lines.into_iter().any(|line| line.ends_with("restricted")));
        process
    }

    fn end(mut process: Child) -> ExitStatus {
        drop(process.stdin.take());
        // The test harness must not fail to write its result.
        let _ = process
            .stdout
            .as_mut()
            .unwrap()
            .read_to_end(&mut Vec::new());
        process.wait().unwrap()
    }

    fn state(process: &Child) -> char {
        let stat = fs::read_to_string(format!("/proc/{}/stat", process.id())).unwrap();
        stat.rsplit(") ").next().unwrap().chars().next().unwrap()
    }

    #[test]
    fn stopped_process_continues() {
        let mut process = start("wait");
        let id = Pid::from_raw(process.id().cast_signed());
        for _ in 0..10 {
            kill(id, Signal::SIGSTOP).unwrap();
            while state(&process) != 'T' {
                assert_eq!(process.try_wait().unwrap(), None);
                thread::yield_now();
            }
            kill(id, Signal::SIGCONT).unwrap();
            thread::sleep(TIMEOUT / 2);
        }
        let status = end(process);
        assert!(status.success(), "{status}");
    }

    #[test]
    fn panic_is_no_forbidden_call() {
        let status = end(start("panic"));
        assert!(status.success(), "{status}");
        assert_eq!(end(start("abort")).signal(), Some(libc::SIGABRT));
    }

    #[test]
    fn forbidden_call_kills() {
        assert_eq!(end(start("connect")).signal(), Some(libc::SIGSYS));
    }

    #[test]
    fn other_calls_fail() {
        // Only the thread is restricted.
        let restricted = thread::spawn(|| {
            restrict().unwrap();
            assert_eq!(nix::sys::utsname::uname().err(), Some(nix::Error::ENOSYS));
            // Without clone3, and with clone for threads only.
            let started = Command::new("/bin/true").spawn();
            assert_eq!(started.unwrap_err().raw_os_error(), Some(libc::ENOSYS));
            thread::spawn(|| ()).join().unwrap();
            let unshared = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER);
            assert_eq!(unshared, Err(nix::Error::ENOSYS));
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS).unwrap();
        });
        restricted.join().unwrap();
    }
}
