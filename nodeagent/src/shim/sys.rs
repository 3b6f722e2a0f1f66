//! The few system calls that Rust cannot prove safe: fork, a child that shares this process's memory until its exec, exit
//! without handlers, signal dispositions, closing everything, leases, and the clock that goes on while the machine
//! sleeps. All unsafe code of this crate is in this file and in `gpu/nvml/raw.rs`.
#![expect(
    unsafe_code,
    reason = "fork, clone, sigaction, close_range and leases have no safe form"
)]

use std::ffi::c_int;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;
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

/// The stack of a child that shares this process's memory: the child makes a handful of calls and executes.
const CHILD_STACK: usize = 64 * 1024;

/// Makes a child that runs `act` and ends with what that returns, unless it has become another program by then. Returns
/// once either has happened.
///
/// Until then the child has this process's memory and this process waits, so nothing is copied, and nothing has to be
/// faulted in twice. Descriptors, user, directory, session and signals are the child's own. With `cgroup`, a folder of v2,
/// the child is in it from its first moment, which costs far less than moving it there; not every machine can do that.
/// The caller must be single-threaded.
pub(crate) fn start_sharing<Act: FnMut() -> c_int>(
    cgroup: Option<BorrowedFd<'_>>,
    act: &mut Act,
) -> io::Result<Pid> {
    extern "C" fn enter<Act: FnMut() -> c_int>(act: *mut libc::c_void) -> c_int {
        // SAFETY: it is the reference that `start_sharing` was given, whose owner waits for this process meanwhile.
        unsafe { (*act.cast::<Act>())() }
    }
    let mut stack = Box::<[u8]>::new_uninit_slice(CHILD_STACK);
    let act = std::ptr::from_mut(act).cast();
    let pid = if let Some(cgroup) = cgroup {
        clone_into(cgroup, &mut stack, enter::<Act>, act)?
    } else {
        // SAFETY: the stack is valid for writing, grows downwards on everything that Linux and Rust share, and is
        // unused once the call returns, because of CLONE_VFORK. Its end is aligned as every machine wants it.
        unsafe {
            let end = stack.as_mut_ptr().add(CHILD_STACK);
            libc::clone(
                enter::<Act>,
                end.map_addr(|address| address & !0xf).cast(),
                libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
                act,
            )
        }
    };
    if pid > 0 {
        Ok(Pid::from_raw(pid))
    } else {
        Err(io::Error::last_os_error())
    }
}

type Entry = extern "C" fn(*mut libc::c_void) -> c_int;

/// `clone3` with a stack of the child's own, into a cgroup of v2. The C library has no function for it.
#[cfg(target_arch = "x86_64")]
fn clone_into(
    cgroup: BorrowedFd<'_>,
    stack: &mut [MaybeUninit<u8>],
    entry: Entry,
    argument: *mut libc::c_void,
) -> io::Result<c_int> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    // As the kernel has it; the places between are not used.
    #[repr(C)]
    #[derive(Default)]
    struct Arguments {
        flags: u64,
        pidfd: u64,
        tids: [u64; 2],
        exit_signal: u64,
        stack: u64,
        stack_size: u64,
        tls: u64,
        set_tid: [u64; 2],
        cgroup: u64,
    }
    let start = stack.as_mut_ptr().expose_provenance();
    let arguments = Arguments {
        flags: CLONE_INTO_CGROUP | u64::from((libc::CLONE_VM | libc::CLONE_VFORK).unsigned_abs()),
        exit_signal: u64::from(libc::SIGCHLD.unsigned_abs()),
        stack: start as u64,
        stack_size: (((start + stack.len()) & !0xf) - start) as u64,
        cgroup: u64::from(cgroup.as_raw_fd().unsigned_abs()),
        ..Arguments::default()
    };
    let result: isize;
    // SAFETY: the structure has the kernel's layout, and the stack is unused once the call returns, because of
    // CLONE_VFORK. The child begins behind `syscall` with a stack of its own, calls the function there as the C calling
    // convention has it, and never leaves this block. The parent's registers are its own.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "mov edi, eax",
            "mov eax, {exit}",
            "syscall",
            "ud2",
            "2:",
            exit = const libc::SYS_exit_group,
            inlateout("rax") isize::try_from(libc::SYS_clone3).unwrap_or(-1) => result,
            in("rdi") &raw const arguments,
            in("rsi") size_of::<Arguments>(),
            in("r12") argument,
            in("r13") entry,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    match c_int::try_from(result) {
        Ok(pid) if pid > 0 => Ok(pid),
        _ => Err(io::Error::from_raw_os_error(
            c_int::try_from(-result).unwrap_or(libc::EINVAL),
        )),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn clone_into(
    _: BorrowedFd<'_>,
    _: &mut [MaybeUninit<u8>],
    _: Entry,
    _: *mut libc::c_void,
) -> io::Result<c_int> {
    Err(io::ErrorKind::Unsupported.into())
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

/// A number in a file that several processes have mapped: who writes it writes for all, and it outlives the writer.
pub(crate) struct SharedWord {
    place: NonNull<AtomicU64>,
}

// SAFETY: the place is only used as an atomic, and stays mapped until the drop.
unsafe impl Send for SharedWord {}
// SAFETY: as above.
unsafe impl Sync for SharedWord {}

impl SharedWord {
    /// Maps the first eight bytes of a file that is at least that long and is never cut.
    pub(crate) fn map(file: &File) -> io::Result<Self> {
        const LENGTH: usize = size_of::<AtomicU64>();
        if file.metadata()?.len() < LENGTH as u64 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // SAFETY: a new mapping where the kernel likes touches nothing that exists; a mapping begins at a page, so the
        // number is aligned, and every pattern of bits is one.
        let place = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                LENGTH,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if place == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let place = NonNull::new(place.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { place })
    }

    /// The number.
    pub(crate) fn word(&self) -> &AtomicU64 {
        // SAFETY: it is mapped as long as `self` lives, aligned, and never used but as an atomic.
        unsafe { self.place.as_ref() }
    }
}

impl Drop for SharedWord {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this length, and nobody borrows it any more.
        unsafe {
            libc::munmap(self.place.as_ptr().cast(), size_of::<AtomicU64>());
        }
    }
}

/// A timer on the clock that goes on in suspension: what is due meanwhile is due at the wake-up. Its descriptor is
/// readable from then on.
pub(crate) fn boot_timer() -> io::Result<OwnedFd> {
    // SAFETY: the call takes no memory; what it returns is a descriptor of our own, or negative.
    let made = unsafe {
        libc::timerfd_create(libc::CLOCK_BOOTTIME, libc::TFD_CLOEXEC | libc::TFD_NONBLOCK)
    };
    if made < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was just made, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(made) })
}

/// Sets a timer to a time since boot; zero stops it. Either way it is not due until then.
pub(crate) fn set_boot_timer(timer: &OwnedFd, at: Duration) {
    let zero = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let setting = libc::itimerspec {
        it_interval: zero,
        it_value: libc::timespec {
            tv_sec: libc::time_t::try_from(at.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: libc::c_long::from(at.subsec_nanos()),
        },
    };
    // SAFETY: the setting is valid for reading, and the old one is not asked for.
    unsafe {
        libc::timerfd_settime(
            timer.as_raw_fd(),
            libc::TFD_TIMER_ABSTIME,
            &raw const setting,
            std::ptr::null_mut(),
        );
    }
}
