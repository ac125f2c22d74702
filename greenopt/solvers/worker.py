"""A process that runs one solver package for another process, so that both can live.

It reads requests from its standard input and answers on its standard output, as pickles. A request
is a tuple of a word and its arguments; an answer a pair of a word ("incumbent", "log", "done",
"refused", "failed") and a value. Whatever a solver prints goes to standard error.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import sys
import threading
import traceback
from importlib import import_module
from typing import Any

from greenopt.errors import SolverError
from greenopt.labelled import FloatArray
from greenopt.solvers.task import Line


def main(module: str) -> None:
    """Serve requests for one backend until the other side goes away."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that waits
    source, sink = _own_pipes()
    service = _Service(module, sink)
    requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=service.listen, args=(source, requests), daemon=True).start()
    requests.put(("version",))
    while True:
        service.answer(requests.get())


def _own_pipes() -> tuple[Any, Any]:
    """Take standard input and output away from whoever else might use them."""
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return source, sink


class _Service:
    """One backend and the programs it keeps."""

    def __init__(self, module: str, sink: Any) -> None:
        self._module, self._sink = module, sink
        self._lock = threading.Lock()
        self._line: Line = _Told(self._tell)
        self._programs: dict[int, Any] = {}

    def listen(self, source: Any, requests: queue.SimpleQueue[Any]) -> None:
        """Read requests; a stop is passed on at once, and without a reader life has no point."""
        while True:
            try:
                request = pickle.load(source)
            except (EOFError, OSError, pickle.UnpicklingError):
                os._exit(0)
            if request[0] == "stop":
                with contextlib.suppress(Exception):  # it may just have ended
                    self._line.stop()
            else:
                requests.put(request)

    def answer(self, request: Any) -> None:
        """Do what is asked; what goes wrong is an answer too."""
        self._line = _Told(self._tell)
        try:
            self._tell("done", getattr(self, request[0])(*request[1:]))
        except SolverError as error:
            self._tell("refused", str(error))
        except MemoryError:
            self._tell("failed", "the solver ran out of memory")
        except Exception as error:
            traceback.print_exc()
            self._tell("failed", f"{type(error).__name__}: {error}")

    def version(self) -> str:
        backend = import_module(self._module)
        return str(backend.version())

    def solve(self, task: Any) -> Any:
        return import_module(self._module).solve(task, self._line)

    def open(self, key: int, task: Any) -> None:
        self._programs[key] = import_module(self._module).Program(task, self._line)

    def change(self, key: int, change: Any) -> None:
        self._programs[key].change(change)

    def run(self, key: int, time_limit_s: float) -> Any:
        return self._programs[key].run(time_limit_s, self._line)

    def basis(self, key: int) -> Any:
        return self._programs[key].basis()

    def close(self, key: int) -> None:
        self._programs.pop(key, None)

    def _tell(self, word: str, value: Any) -> None:
        with self._lock:  # callbacks may come from the solver's threads
            try:
                pickle.dump((word, value), self._sink, protocol=5)
                self._sink.flush()
            except OSError:
                os._exit(0)


class _Told(Line):
    """A line whose other end is in another process."""

    owns_output = True

    def __init__(self, tell: Any) -> None:
        super().__init__(lambda text: tell("log", text))
        self._tell = tell

    def improve(self, x: FloatArray) -> None:
        """Pass a better point on."""
        self._tell("incumbent", x)


if __name__ == "__main__":
    main(sys.argv[1])
