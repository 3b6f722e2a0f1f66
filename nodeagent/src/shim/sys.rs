//! The few system calls that Rust cannot prove safe: fork (into a cgroup too), exit without handlers, signal dispositions, closing
//! everything, leases, and the clock that goes on while the machine sleeps. All unsafe code of this crate is in this file.
#![expect(
    unsafe_code,
    reason = "fork, clone3, sigaction, close_range and leases have no safe form"
)]

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use nix::libc;
use nix::unistd::{ForkResult, Pid};
use tokio::io::unix::AsyncFd;

/// Which signal tells of news about a descriptor; the libc crate has it for some targets only.
const F_SETSIG: c_int = 10;

/// Forks. The caller must be single-threaded, as the spawner and the shim are, so the child may do anything.
pub(crate) fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: the spawner and its shims never start a thread, so no lock can be held by a thread that the child lacks.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(Some(child)),
        ForkResult::Child => Ok(None),
    }
}

/// Forks with the child in a cgroup of v2 from its first moment, which costs far less than moving it there. The caller
/// must be single-threaded.
pub(crate) fn fork_into(cgroup: impl AsFd) -> io::Result<Option<Pid>> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    // As the kernel has it: flags, three places that are not used, the signal at the end, and so on to the cgroup.
    #[repr(C)]
    #[derive(Default)]
    struct Arguments {
        flags: u64,
        places: [u64; 3],
        exit_signal: u64,
        stack_and_more: [u64; 5],
        cgroup: u64,
    }
    let arguments = Arguments {
        flags: CLONE_INTO_CGROUP,
        exit_signal: u64::from(libc::SIGCHLD.unsigned_abs()),
        cgroup: u64::from(cgroup.as_fd().as_raw_fd().unsigned_abs()),
        ..Arguments::default()
    };
    // SAFETY: the structure has the kernel's layout and outlives the call; without CLONE_VM and a stack this is a fork,
    // and as for `fork` there is no other thread whose locks the child could miss.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw const arguments,
            size_of::<Arguments>(),
        )
    };
    match libc::pid_t::try_from(pid) {
        Ok(0) => Ok(None),
        Ok(pid) if pid > 0 => Ok(Some(Pid::from_raw(pid))),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Ends the process at once, running no handlers of the process it was forked from.
pub(crate) fn exit_now(code: c_int) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Gives every signal its default disposition: an ignored one would survive exec.
pub(crate) fn reset_dispositions() {
    for signal in 1..=64 {
        // SAFETY: SIG_DFL installs no handler; numbers that cannot be changed fail harmlessly with EINVAL.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
        }
    }
}

/// Closes every descriptor from `first` up. Nothing that owns one of them may be used, or dropped, afterwards.
pub(crate) fn close_descriptors_from(first: c_int) {
    // SAFETY: the callers use and drop nothing afterwards that owns a descriptor at or above `first`.
    let closed = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            libc::c_uint::try_from(first).unwrap_or(3),
            libc::c_uint::MAX,
            0,
        )
    };
    if closed != 0 {
        for descriptor in first..4096 {
            // SAFETY: as above.
            unsafe {
                libc::close(descriptor);
            }
        }
    }
}

/// Whether anybody else has this file open, in any process, or cannot be excluded to. The file is open for writing.
pub(crate) fn is_open_elsewhere(file: impl AsFd) -> bool {
    let descriptor = file.as_fd().as_raw_fd();
    let ask = |command, argument: c_int| {
        // SAFETY: the descriptor is open for as long as it is borrowed, and these commands touch no memory of ours.
        unsafe { libc::fcntl(descriptor, command, argument) }
    };
    // A write lease is given only to him who alone has the file open. Who opens it meanwhile waits for the lease to go,
    // and its holder gets a signal, by default one that would end him; this one is ignored.
    if ask(F_SETSIG, libc::SIGURG) != 0 || ask(libc::F_SETLEASE, libc::F_WRLCK) != 0 {
        return true;
    }
    ask(libc::F_SETLEASE, libc::F_UNLCK) != 0
}

/// Time since boot, suspension included.
pub(crate) fn boot_time() -> Duration {
    let mut value = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `value` is valid for writing; CLOCK_BOOTTIME exists since Linux 2.6.39.
    unsafe {
        libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut value);
    }
    Duration::new(
        u64::try_from(value.tv_sec).unwrap_or(0),
        u32::try_from(value.tv_nsec).unwrap_or(0),
    )
}

/// Watches a descriptor from async code.
pub(crate) fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` names the same open descriptor until it is dropped, which the `AsyncFd` does last.
    unsafe { AsyncFd::register(descriptor) }.map_err(io::Error::from)
}
