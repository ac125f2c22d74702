"""Solvers in processes of their own: started once, kept, killed when they overrun or hang."""

from __future__ import annotations

import atexit
import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

from greenopt.errors import SolverError
from greenopt.solvers.task import Line, grace_s

START_LIMIT_S = 60.0
"""How long a worker may take to start and load its solver."""

KEPT_IDLE = 2
"""Idle workers kept for each backend; more exist only while several threads solve at once."""

_BOOT = (
    "import sys; sys.path[:] = {path!r}; from greenopt.solvers.worker import main; main({module!r})"
)


class WorkerLost(Exception):
    """A worker ended or was ended before it answered; the text says why.

    Parameters
    ----------
    text : str
        The reason.
    overdue : bool
        Whether it was killed for taking longer than it may.
    """

    def __init__(self, text: str, overdue: bool = False) -> None:
        self.overdue = overdue
        super().__init__(text)


class Worker:
    """A process that runs one backend.

    Parameters
    ----------
    module : str
        The backend.

    Raises
    ------
    SolverError
        If the process or its solver cannot be loaded, with the reason.
    """

    def __init__(self, module: str) -> None:
        self.module, self.pid = module, os.getpid()
        requests, self._sink = os.pipe()
        self._source, answers = os.pipe()
        self._words = tempfile.TemporaryFile()  # what it prints, for its obituary
        boot = _BOOT.format(path=[os.getcwd() if p == "" else p for p in sys.path], module=module)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", boot],
                stdin=requests,
                stdout=answers,
                stderr=self._words,
                start_new_session=True,  # Ctrl-C in a terminal is not for the worker
            )
        except OSError as error:
            raise SolverError(f"no process can be started for a solver: {error}") from error
        finally:
            os.close(requests)
            os.close(answers)
        self._answers: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()
        try:
            self.version = str(self._wait(Line(_ignore), START_LIMIT_S, START_LIMIT_S))
        except WorkerLost as lost:
            self.kill()
            raise SolverError(f"a process for {module} cannot be started: {lost}") from lost
        except BaseException:
            self.kill()
            raise

    def call(self, line: Line, time_limit_s: float, *request: Any) -> Any:
        """Ask and wait, but not for ever.

        Parameters
        ----------
        line : Line
            Who hears of incumbents and log lines meanwhile.
        time_limit_s : float
            When the solver should be done by itself. It is asked to stop half a grace later, and
            killed after a whole one.
        *request : object
            A word and its arguments.

        Raises
        ------
        WorkerLost
            If it died or had to be killed.
        SolverError
            If it refuses.
        """
        try:
            self._send(request)
            grace = grace_s(time_limit_s)
            return self._wait(line, time_limit_s + grace / 2, time_limit_s + grace)
        except SolverError:
            raise
        except BaseException:  # Ctrl-C too: the solve is of no use any more
            self.kill()
            raise

    @property
    def alive(self) -> bool:
        """Whether it can be asked, by this process."""
        return self.pid == os.getpid() and self._process.poll() is None

    def kill(self) -> None:
        """End it at once."""
        if self.pid == os.getpid():
            self._process.kill()
            self._process.wait()
            self._hang_up()

    def close(self) -> None:
        """Let it go: it ends when nobody can ask any more."""
        if self.pid == os.getpid():
            self._hang_up()
            try:
                self._process.wait(1.0)
            except subprocess.TimeoutExpired:
                self.kill()

    def leave(self) -> None:
        """After a fork, in the child: give up the parent's worker without disturbing it."""
        self._hang_up()
        self._process.returncode = 0  # not ours to wait for

    def _hang_up(self) -> None:
        if self._sink >= 0:
            os.close(self._sink)
        self._sink = -1
        self._words.close()

    def _send(self, request: Any) -> None:
        try:
            with open(self._sink, "wb", closefd=False) as sink:
                pickle.dump(request, sink, protocol=5)
        except OSError as error:
            raise WorkerLost(self._obituary()) from error

    def _listen(self) -> None:
        """Read answers until there are no more (in a thread of its own)."""
        try:
            with open(self._source, "rb") as source:
                while True:
                    self._answers.put(pickle.load(source))
        except (EOFError, OSError, ValueError, pickle.UnpicklingError):
            self._answers.put(("lost", None))

    def _wait(self, line: Line, stop_s: float, kill_s: float) -> Any:
        started, asked = time.monotonic(), False
        while True:
            until = started + (kill_s if asked else stop_s)
            left = min(max(until - time.monotonic(), 0.0), threading.TIMEOUT_MAX)
            try:
                word, value = self._answers.get(timeout=left)
            except queue.Empty:
                if asked:
                    text = f"the solver did not stop by itself and was killed after {kill_s:.1f} s"
                    raise WorkerLost(text, overdue=True) from None
                asked = True
                self._send(("stop",))
                continue
            if word == "done":
                return value
            if word == "refused":
                raise SolverError(value)
            if word == "incumbent":
                line.improve(value)
            elif word == "log":
                line.log(value)
            else:
                raise WorkerLost(value or self._obituary())

    def _obituary(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        code = self._process.returncode
        if code is not None and code < 0:
            cause = f"was ended by {signal.Signals(-code).name}"
            if code == -signal.SIGKILL:
                cause += " (out of memory, perhaps)"
        else:
            cause = f"ended with exit status {code}"
        self._words.seek(0)
        words = self._words.read().decode(errors="replace").strip().splitlines()
        return f"the solver's process {cause}" + (f": {words[-1]}" if words else "")


def _ignore(_: str) -> None:
    pass


class _Pool:
    """Idle workers by backend."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # garbage collection may give back while we hold it
        self._idle: dict[str, list[Worker]] = {}
        self._every: list[Worker] = []

    def borrow(self, module: str) -> Worker:
        """An idle worker, or a new one; it is the caller's until given back."""
        with self._lock:
            idle = self._idle.get(module, [])
            while idle:
                if (worker := idle.pop()).alive:
                    return worker
                worker.kill()  # it died unnoticed; its pipes are left
        worker = Worker(module)
        with self._lock:
            self._every = [w for w in self._every if w.alive] + [worker]
        return worker

    def give_back(self, worker: Worker) -> None:
        """Keep a worker for the next one who asks."""
        with self._lock:
            idle = self._idle.setdefault(worker.module, [])
            if worker.alive and len(idle) < KEPT_IDLE:
                idle.append(worker)
                return
        worker.close()

    def close(self) -> None:
        """End every worker."""
        for worker in self._every:
            if worker.alive:
                worker.close()

    def leave(self) -> None:
        """After a fork, in the child: the workers are the parent's."""
        for worker in self._every:
            worker.leave()
        self.__init__()  # type: ignore[misc]


pool = _Pool()
"""The workers of this process."""

atexit.register(pool.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=pool.leave)
