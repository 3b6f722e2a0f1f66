"""Tests of gctl_checkpoint with real processes and signals: `python3 -m unittest` in this folder."""

import array
import fcntl
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import termios
import threading
import unittest
from unittest import mock

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import gctl_checkpoint as gctl  # noqa: E402

TOKEN = "gctl-checkpoint-complete"
# Nothing waits for it unless something is wrong; two cores serve many tests at once.
PATIENCE_SECONDS = 120
# Linux' own number, which Python has a name for only since 3.10.
F_GETPIPE_SZ = 1032
PRELUDE = """
import atexit, os, pathlib, signal, subprocess, sys, threading, time
import gctl_checkpoint as gctl

def ready():
    print("ready", flush=True)
    while True:
        signal.pause()

"""


def variables(**changes):
    """The environment of this process without anything of gctl's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GCTL_")}
    kept.pop("PYTHONUNBUFFERED", None)
    return {**kept, "PYTHONPATH": str(HERE), "PYTHONDONTWRITEBYTECODE": "1", **changes}


class WithFolder(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def ack_file(self):
        """As a job finds it: never touched."""
        file = self.folder / "ack"
        file.touch()
        os.utime(file, (0, 0))
        return file


class Program(WithFolder):
    def start(self, script, **environment):
        process = subprocess.Popen(
            [sys.executable, "-c", PRELUDE + script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
            cwd=str(self.folder),
            env=variables(**environment),
        )
        self.addCleanup(self.close, process)
        return process

    @staticmethod
    def close(process):
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            stream.close()

    def said(self, process, line):
        self.assertEqual(process.stdout.readline(), line + "\n")

    def stopped(self, process):
        """Sends TERM; the exit code, and what came on standard output and error from there on."""
        process.send_signal(signal.SIGTERM)
        return self.ended(process)

    @staticmethod
    def ended(process):
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
        return process.returncode, out, err


class OnStop(Program):
    def test_the_function_gets_the_seconds_left_then_the_line_is_printed_and_the_exit_code_is_0(self):
        process = self.start(
            "gctl.on_stop(lambda left: print('saved', 0 < left <= 20))\nready()",
            GCTL_GRACE_SECONDS="20",
        )
        self.said(process, "ready")
        self.assertEqual(self.stopped(process), (0, f"saved True\n\n{TOKEN}\n", ""))

    def test_outside_a_job_there_are_60_seconds(self):
        process = self.start("gctl.on_stop(lambda left: print('saved', 20 < left <= 60))\nready()")
        self.said(process, "ready")
        self.assertEqual(self.stopped(process), (0, f"saved True\n\n{TOKEN}\n", ""))

    def test_a_function_that_raises_is_told_on_standard_error_and_nothing_is_acknowledged(self):
        for name, raising in [
            ("ValueError: the disk is full", "raise ValueError('the disk is full')"),
            ("KeyboardInterrupt", "raise KeyboardInterrupt"),
            ("SystemExit: 0", "sys.exit(0)"),
        ]:
            with self.subTest(name):
                ack = self.ack_file()
                process = self.start(
                    f"@gctl.on_stop\ndef save(left):\n    print('half')\n    {raising}\nready()",
                    GCTL_CHECKPOINT_ACK=str(ack),
                )
                self.said(process, "ready")
                code, out, err = self.stopped(process)
                self.assertEqual((code, out), (1, "half\n"))
                self.assertIn("gctl_checkpoint: the program could not be saved\n", err)
                self.assertIn(name, err)
                self.assertEqual(ack.stat().st_mtime, 0)

    def test_the_file_is_touched_after_the_function_has_returned(self):
        ack = self.ack_file()
        script = f"gctl.on_stop(lambda left: print(os.stat({str(ack)!r}).st_mtime))\nready()"
        process = self.start(script, GCTL_CHECKPOINT_ACK=str(ack))
        self.said(process, "ready")
        self.assertEqual(self.stopped(process), (0, f"0.0\n\n{TOKEN}\n", ""))
        self.assertGreater(ack.stat().st_mtime, 0)

    def test_a_file_that_cannot_be_touched_costs_nothing_but_a_complaint(self):
        process = self.start("gctl.on_stop(print)\nready()", GCTL_CHECKPOINT_ACK="/no/such/folder/ack")
        self.said(process, "ready")
        code, out, err = self.stopped(process)
        self.assertEqual((code, out.endswith(f"\n{TOKEN}\n")), (0, True))
        self.assertIn("cannot touch GCTL_CHECKPOINT_ACK: ", err)

    def test_what_was_printed_before_comes_first_and_the_line_stands_alone(self):
        script = "gctl.on_stop(lambda left: print('saved', end=''))\nprint('step 7 ', end='')\n"
        process = self.start(script + "print('ready', file=sys.stderr, flush=True)\nready()")
        self.assertEqual(process.stderr.readline(), "ready\n")
        self.said(process, "step 7 ready")
        self.assertEqual(self.stopped(process), (0, f"saved\n{TOKEN}\n", ""))

    def test_a_print_that_the_signal_interrupts_does_not_keep_the_function_from_printing(self):
        process = self.start(
            """
gctl.on_stop(lambda left: print('saved', flush=True))
while True:
    print('x' * 65535)
"""
        )
        # Once the pipe is full, the program is within a print, or about to be.
        waiting = array.array("i", [0])
        while waiting[0] < fcntl.fcntl(process.stdout, F_GETPIPE_SZ):
            fcntl.ioctl(process.stdout, termios.FIONREAD, waiting)
        code, out, err = self.stopped(process)
        self.assertEqual((code, err), (0, ""))
        self.assertTrue(out.endswith(f"saved\n\n{TOKEN}\n"), out[-100:])

    def test_a_second_signal_does_not_begin_anew(self):
        process = self.start(
            "gctl.on_stop(lambda left: (print('saving', flush=True), sys.stdin.readline()))\nready()"
        )
        self.said(process, "ready")
        process.send_signal(signal.SIGTERM)
        self.said(process, "saving")
        process.send_signal(signal.SIGTERM)
        process.stdin.write("go on\n")
        process.stdin.flush()
        self.assertEqual(self.ended(process), (0, f"\n{TOKEN}\n", ""))

    def test_a_forked_child_does_not_save_but_does_what_it_would_have_done(self):
        for before, expected in [("", "-15"), ("signal.signal(signal.SIGTERM, lambda *_: os._exit(7))\n", "7")]:
            with self.subTest(before):
                process = self.start(
                    before
                    + """
gctl.on_stop(lambda left: print('saved by', os.getpid() == parent))
parent = os.getpid()
child = os.fork()
if child == 0:
    print(os.getpid(), flush=True)
    ready()
_, status = os.waitpid(child, 0)
print(-os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status), flush=True)
ready()
"""
                )
                child = int(process.stdout.readline())
                self.said(process, "ready")
                os.kill(child, signal.SIGTERM)
                self.said(process, expected)
                self.said(process, "ready")
                self.assertEqual(self.stopped(process), (0, f"saved by True\n\n{TOKEN}\n", ""))

    def test_a_handler_that_raises_when_a_child_ends_does_not_disturb_the_function(self):
        process = self.start(
            """
def raises(*_):
    raise RuntimeError('DataLoader worker is killed by signal')
signal.signal(signal.SIGCHLD, raises)
gctl.on_stop(lambda left: subprocess.run(['echo', 'copied'], check=True))
ready()
"""
        )
        self.said(process, "ready")
        self.assertEqual(self.stopped(process), (0, f"copied\n\n{TOKEN}\n", ""))

    def test_nothing_that_is_left_of_the_program_can_delay_its_end(self):
        process = self.start(
            """
atexit.register(print, 'not reached')
threading.Thread(target=threading.Event().wait).start()
gctl.on_stop(lambda left: None)
try:
    ready()
finally:
    print('not reached either')
"""
        )
        self.said(process, "ready")
        self.assertEqual(self.stopped(process), (0, f"\n{TOKEN}\n", ""))

    def test_in_another_thread_it_is_refused_with_the_reason(self):
        for install in (lambda: gctl.on_stop(print), gctl.Guard):
            errors = []

            def attempt():
                try:
                    install()
                except RuntimeError as error:
                    errors.append(str(error))

            thread = threading.Thread(target=attempt, name="loader")
            thread.start()
            thread.join()
            self.assertEqual(len(errors), 1)
            self.assertIn("must be called in the main thread", errors[0])
            self.assertIn("not in `loader`", errors[0])


LOOP = """
guard = gctl.Guard()
atexit.register(print, 'at exit')
print('ready', flush=True)
try:
    while not guard.stopping:
        time.sleep(0.01)
    print('saved')
    guard.done()
finally:
    print('finally')
"""


class AskedAtEachStep(Program):
    def test_the_loop_is_asked_to_stop_and_ends_with_0_after_the_line(self):
        ack = self.ack_file()
        process = self.start(LOOP, GCTL_CHECKPOINT_ACK=str(ack))
        self.said(process, "ready")
        expected = f"saved\n\n{TOKEN}\nfinally\nat exit\n"
        self.assertEqual(self.stopped(process), (0, expected, ""))
        self.assertGreater(ack.stat().st_mtime, 0)

    def test_a_handler_that_raises_when_a_child_ends_does_not_disturb_the_step(self):
        process = self.start(
            "def raises(*_):\n    raise RuntimeError\nsignal.signal(signal.SIGCHLD, raises)\n"
            + LOOP.replace("print('saved')", "subprocess.run(['true']); print('saved')")
        )
        self.said(process, "ready")
        code, out, err = self.stopped(process)
        self.assertEqual((code, err), (0, ""))
        self.assertTrue(out.startswith("saved\n"), out)

    def test_an_error_while_saving_is_the_program_s_own(self):
        process = self.start(LOOP.replace("print('saved')", "raise ValueError('full')"))
        self.said(process, "ready")
        code, out, err = self.stopped(process)
        self.assertEqual((code, out), (1, "finally\nat exit\n"))
        self.assertIn("ValueError: full", err)

    def test_a_worker_lives_on_through_the_first_signal_and_not_the_second(self):
        process = self.start(
            """
gctl.outlive_stop(0)
print('ready', flush=True)
for line in sys.stdin:
    print(line, end='', flush=True)
"""
        )
        self.said(process, "ready")
        process.send_signal(signal.SIGTERM)
        process.stdin.write("batch\n")
        process.stdin.flush()
        self.said(process, "batch")
        self.assertEqual(self.stopped(process), (-signal.SIGTERM, "", ""))


class WaitingForTheOwnSignal(unittest.TestCase):
    """In a gang, another rank may be asked before this one."""

    def done(self, asked_after):
        """Calls `done` with a signal after so many seconds; the seconds that it took, and what it did."""
        clock, deeds = [0.0], []

        def sleep(seconds):
            clock[0] += seconds
            gctl._asked_at = clock[0] if clock[0] >= asked_after else None

        with mock.patch.multiple(
            gctl,
            _asked_at=None,
            _install=lambda what, react: None,
            _flush=lambda: None,
            _acknowledge_or_complain=lambda: deeds.append("acknowledged"),
            _print_token=lambda: deeds.append("told"),
        ), mock.patch.object(gctl.time, "sleep", sleep), mock.patch.object(
            gctl.time, "monotonic", lambda: clock[0]
        ), mock.patch.dict(os.environ, {"GCTL_GRACE_SECONDS": "30"}):
            with self.assertRaises(SystemExit) as ended:
                gctl.Guard().done()
        self.assertEqual(ended.exception.code, 0)
        return clock[0], deeds

    def test_it_is_awaited_so_that_the_end_counts_as_the_stop_s(self):
        took, deeds = self.done(asked_after=7)
        self.assertAlmostEqual(took, 7, delta=0.1)
        self.assertEqual(deeds, ["acknowledged", "told"])

    def test_it_is_not_awaited_for_ever(self):
        took, deeds = self.done(asked_after=10_000)
        self.assertAlmostEqual(took, 30, delta=0.1)
        self.assertEqual(deeds, ["acknowledged", "told"])


class TimeRemaining(unittest.TestCase):
    def at(self, now, asked_at, grace):
        environment = {} if grace is None else {"GCTL_GRACE_SECONDS": grace}
        with mock.patch.dict(os.environ, environment), mock.patch.object(
            gctl, "_asked_at", asked_at
        ), mock.patch.object(gctl.time, "monotonic", lambda: now):
            if grace is None:
                os.environ.pop("GCTL_GRACE_SECONDS", None)
            return gctl.time_remaining()

    def test_it_is_the_whole_grace_before_the_signal_and_shrinks_to_0_after_it(self):
        for now, asked_at, expected in [
            (1000, None, 30),
            (1000, 1000, 30),
            (1012.5, 1000, 17.5),
            (1030, 1000, 0),
            (5000, 1000, 0),
        ]:
            self.assertEqual(self.at(now, asked_at, "30"), expected, (now, asked_at))

    def test_a_grace_that_is_missing_or_makes_no_sense_is_60_seconds(self):
        rows = [None, "", " ", "soon", "nan", "inf", "-inf", "-1", "1e999", "30s"]
        for grace in rows:
            self.assertEqual(self.at(0, None, grace), 60, repr(grace))
        for grace, expected in [("0", 0), ("1.5", 1.5), ("300", 300)]:
            self.assertEqual(self.at(0, None, grace), expected, grace)


class Files(WithFolder):
    def within(self, **environment):
        return mock.patch.dict(os.environ, variables(**environment), clear=True)

    def test_outside_a_job_there_is_no_directory_and_nobody_to_acknowledge_to(self):
        for environment in ({}, {"GCTL_CHECKPOINT_DIR": "", "GCTL_CHECKPOINT_ACK": ""}):
            with self.within(**environment):
                self.assertIsNone(gctl.checkpoint_dir())
                self.assertFalse(gctl.acknowledge())

    def test_in_a_job_the_directory_is_a_path_and_each_acknowledgement_touches_the_file(self):
        ack = self.ack_file()
        with self.within(GCTL_CHECKPOINT_DIR=str(self.folder), GCTL_CHECKPOINT_ACK=str(ack)):
            self.assertEqual(gctl.checkpoint_dir(), self.folder)
            for _ in range(2):
                os.utime(ack, (0, 0))
                self.assertTrue(gctl.acknowledge())
                self.assertGreater(ack.stat().st_mtime, 0)

    def test_a_save_replaces_the_old_file_when_it_is_whole(self):
        file = self.folder / "state.pt"
        for text in ["first", "second"]:
            with gctl.atomic_save(str(file)) as path:
                self.assertEqual(path.suffix, ".pt")
                path.write_text(text)
                self.assertNotEqual(file.exists() and file.read_text(), text)
            self.assertEqual(file.read_text(), text)
        self.assertEqual(os.listdir(self.folder), ["state.pt"])

    def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(self):
        file = self.folder / "state.pt"
        file.write_text("old")
        with self.assertRaises(ZeroDivisionError), gctl.atomic_save(file) as path:
            path.write_text("half")
            raise ZeroDivisionError
        with self.assertRaises(FileNotFoundError), gctl.atomic_save(file):
            pass
        self.assertEqual(os.listdir(self.folder), ["state.pt"])
        self.assertEqual(file.read_text(), "old")

    def test_what_a_killed_save_left_behind_is_written_over(self):
        file = self.folder / "state.pt"
        with gctl.atomic_save(file) as path:
            left = path
            path.write_text("new")
        left.write_text("longer than what comes next")
        with gctl.atomic_save(file) as path:
            path.write_text("newer")
        self.assertEqual(file.read_text(), "newer")
        self.assertEqual(os.listdir(self.folder), ["state.pt"])


if __name__ == "__main__":
    unittest.main()
