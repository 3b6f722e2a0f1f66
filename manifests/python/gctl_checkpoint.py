"""Saves a Python program when gctl stops its job, and says when what it saved is complete.

One file to copy beside your program, for Python 3.8 and later on Linux. Outside a job it works too, with 60 seconds.

gctl stops a job (preemption, drain, cancel, time limit) with TERM to all its processes, and with KILL after its
`terminationGracePeriodSeconds`. A job that may run again finds what it saved in `checkpoint_dir()` when it does. Who is displaced
is chosen by what would be lost since the last checkpoint that was acknowledged, so say it: `acknowledge()`.

A training loop asks at each step. The handler only takes note, so the state is never one between two steps:

    import torch
    import gctl_checkpoint as gctl

    file = (gctl.checkpoint_dir() or pathlib.Path(".")) / "state.pt"
    state = torch.load(file) if file.exists() else {"step": 0}
    ...                                     # model.load_state_dict(state["model"]) and so on
    guard = gctl.Guard()
    for step in range(state["step"], 100_000):
        train_one_step()
        if guard.stopping or (step + 1) % 1000 == 0:
            with gctl.atomic_save(file) as path:
                torch.save({"step": step + 1, "model": model.state_dict()}, path)
            gctl.acknowledge()
        if guard.stopping:
            guard.done()                    # exits with 0; gctl knows that it was stopped, and runs it again

A DataLoader with workers needs `worker_init_fn=gctl.outlive_stop`: TERM goes to them too, and the loop would fail before it asks.

A program without such a loop hands over a function. It is called wherever the program is just then, so it must only save what is
consistent at any time:

    import json
    import gctl_checkpoint as gctl

    file = (gctl.checkpoint_dir() or pathlib.Path(".")) / "found.json"
    found = json.loads(file.read_text()) if file.exists() else []

    def save(seconds_left):
        with gctl.atomic_save(file) as path:
            path.write_text(json.dumps(list(found)))

    gctl.on_stop(save)                      # in the main thread
    for candidate in candidates(after=len(found)):
        found.append(examine(candidate))

In a gang, or under torchrun, each rank gets TERM, at slightly different times. All must leave at the same step, and none may say
that the checkpoint is complete before it is. With plain data parallelism, rank 0 writes; a sharded saver (FSDP) writes with all:

    where = [gctl.checkpoint_dir()]         # each task of a gang has its own; all use that of rank 0
    dist.broadcast_object_list(where, src=0)
    ...
    stop = torch.tensor(int(guard.stopping), device=device)
    dist.all_reduce(stop, op=dist.ReduceOp.MAX)
    if stop.item():
        if dist.get_rank() == 0:
            save(where[0], step + 1)
        dist.barrier()
        guard.done()                        # in all ranks

Tasks on several nodes see each other's directories where the agents have a --checkpoint-root on shared storage. torchrun kills
its workers 30 seconds after TERM, whatever the grace is (newer ones have an option for it). A shell around the program should
`exec` it.
"""

from __future__ import annotations

import contextlib
import math
import os
import pathlib
import signal
import sys
import threading
import time
import traceback
from typing import Callable, Iterator, NoReturn, Optional, Union

__all__ = [
    "Guard",
    "acknowledge",
    "atomic_save",
    "checkpoint_dir",
    "on_stop",
    "outlive_stop",
    "time_remaining",
]

# The line by which gctl knows a complete checkpoint in the output of a job that it stops.
_TOKEN = b"gctl-checkpoint-complete"
_DEFAULT_GRACE_SECONDS = 60.0
# When this program was asked to stop, on the monotonic clock.
_asked_at: Optional[float] = None


def _grace_seconds() -> float:
    try:
        seconds = float(os.environ.get("GCTL_GRACE_SECONDS", ""))
    except ValueError:
        return _DEFAULT_GRACE_SECONDS
    return seconds if math.isfinite(seconds) and seconds >= 0 else _DEFAULT_GRACE_SECONDS


def time_remaining() -> float:
    """Seconds until KILL: the whole grace before the stop, then less and less, never below 0.

    It counts from the moment when Python came to handle the signal, which it does not within a long call into C. A stop that
    leaves less time than the job's own grace is not known here.
    """
    grace = _grace_seconds()
    if _asked_at is None:
        return grace
    return max(0.0, grace - (time.monotonic() - _asked_at))


def checkpoint_dir() -> Optional[pathlib.Path]:
    """The job's own directory, the same whenever it runs again. `None` outside a job, and in one that never runs again by its
    terms (`preemptible`, `onNodeLost: Requeue`, retries)."""
    directory = os.environ.get("GCTL_CHECKPOINT_DIR")
    return pathlib.Path(directory) if directory else None


def acknowledge() -> bool:
    """Says that what has been saved by now is complete, as often as you like. False outside a job.

    Call it when the file is on the disk under its name, as it is after `atomic_save`.
    """
    file = os.environ.get("GCTL_CHECKPOINT_ACK")
    if not file:
        return False
    pathlib.Path(file).touch()
    return True


@contextlib.contextmanager
def atomic_save(path: Union[str, os.PathLike]) -> Iterator[pathlib.Path]:
    """Gives the path of a new file to write. After the block it is on the disk and stands in place of the old one, whole; after
    an error, or a KILL within, the old one is as it was."""
    path = pathlib.Path(path)
    # The ending stays, since some writers add theirs where it is missing. The name is always the same, so that what a KILL
    # leaves behind is overwritten the next time.
    new = path.with_name(".new-" + path.name)
    try:
        yield new
        with open(new, "rb") as file:
            os.fsync(file.fileno())
        os.replace(new, path)
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink()
        raise
    # The name is on the disk with the directory. Not every file system can do this, and those need not.
    with contextlib.suppress(OSError):
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


class Guard:
    """Takes note of the stop; the program asks for it where it can save itself. To be made in the main thread."""

    def __init__(self) -> None:
        _install("Guard()", lambda: None)

    @property
    def stopping(self) -> bool:
        """Was the program asked to stop?"""
        return _asked_at is not None

    def done(self) -> NoReturn:
        """Says that what was saved is complete and exits with 0, as `sys.exit` does: `finally` and `atexit` have what is left
        of the grace.

        In a gang another rank may have been asked before this one. Then it waits for its own TERM, for the grace at most: who
        ends before it was asked to counts as having finished, and would not run again.
        """
        _acknowledge_or_complain()
        latest = time.monotonic() + _grace_seconds()
        while _asked_at is None and time.monotonic() < latest:
            time.sleep(0.05)
        _flush()
        _print_token()
        sys.exit(0)


def on_stop(save: Callable[[float], object]) -> Callable[[float], object]:
    """Calls `save(seconds_left)` when the program is asked to stop, says that the checkpoint is complete, and ends the program
    with 0. When `save` raises, the error goes to standard error, nothing is said, and the program ends with 1.

    `save` runs in the midst of whatever the main thread does, so it must not wait for a lock that the program may hold. The
    program then ends at once (`os._exit`): an exception would first have to find its way through the code that was interrupted.
    No `finally` and no `atexit` runs; what they should do belongs into `save`. To be called in the main thread.
    """
    _install("on_stop()", lambda: _save_and_exit(save))
    return save


def outlive_stop(worker_id: Optional[int] = None) -> None:
    """Makes a worker process live on through TERM, so that the program it works for can finish its step. The second TERM ends
    it. For `DataLoader(..., worker_init_fn=outlive_stop)`: such workers end when their program does."""

    def on_term(_number: int, _frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    signal.signal(signal.SIGTERM, on_term)


def _install(what: str, react: Callable[[], None]) -> None:
    thread = threading.current_thread()
    if thread is not threading.main_thread():
        raise RuntimeError(
            f"gctl_checkpoint.{what} must be called in the main thread, where Python handles signals, not in `{thread.name}`"
        )
    owner = os.getpid()
    # None is a handler that is not Python's, and cannot be put back.
    previous = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL

    def on_term(_number: int, _frame: object) -> None:
        global _asked_at
        if os.getpid() != owner:
            # A forked child has inherited this. The checkpoint is not its business; TERM does to it what it would have done.
            signal.signal(signal.SIGTERM, previous)
            os.kill(os.getpid(), signal.SIGTERM)
        elif _asked_at is None:
            # Later ones are nothing new, such as torchrun's, which follows that of gctl. The handler stays, since a signal that
            # is ignored would be ignored by the programs that `save` runs, too.
            _asked_at = time.monotonic()
            _quieten_children()
            react()

    signal.signal(signal.SIGTERM, on_term)


def _quieten_children() -> None:
    """Children die of the same TERM, and a handler for that may raise wherever the program is, in the midst of saving too:
    PyTorch's does for workers of a DataLoader."""
    number = getattr(signal, "SIGCHLD", None)
    handler = signal.getsignal(number) if number is not None else None
    if callable(handler):

        def quiet(*arguments: object) -> None:
            with contextlib.suppress(Exception):
                handler(*arguments)

        signal.signal(number, quiet)


def _save_and_exit(save: Callable[[float], object]) -> NoReturn:
    code = 1
    try:
        _flush()
        save(time_remaining())
        _flush()
        _acknowledge_or_complain()
        _print_token()
        code = 0
    except BaseException:
        _flush()
        _write(2, b"\ngctl_checkpoint: the program could not be saved\n" + _encoded(traceback.format_exc()))
    finally:
        os._exit(code)


def _acknowledge_or_complain() -> None:
    try:
        acknowledge()
    except OSError as error:
        # The checkpoint is complete all the same, and the line says so too.
        _write(2, _encoded(f"\ngctl_checkpoint: cannot touch GCTL_CHECKPOINT_ACK: {error}\n"))


def _print_token() -> None:
    # Standard error, other processes and progress bars write to the same log, so nobody knows whether a line has begun.
    _write(1, b"\n" + _TOKEN + b"\n")


def _flush() -> None:
    """Writes out what was printed. Where the signal came in the midst of that, it never can be: then the streams are made anew,
    or a `print` in the user's function would fail."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        try:
            stream.flush()
        except RuntimeError:
            encoding = getattr(stream, "encoding", None)
            fresh = open(number, "w", buffering=1, encoding=encoding, errors="backslashreplace", closefd=False)
            setattr(sys, name, fresh)
        except Exception:
            # It is closed, or there is none; that must not cost the checkpoint.
            pass


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def _write(descriptor: int, data: bytes) -> None:
    """Past Python's buffers, which may be in use by what the signal interrupted."""
    with contextlib.suppress(OSError):
        while data:
            data = data[os.write(descriptor, data) :]
