"""Ctrl-C while a solver runs in the calling process."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

PATIENCE_S = 5.0
"""How long a solver that was asked to stop is waited for; then it goes on alone until it ends."""

T = TypeVar("T")


def beside(run: Callable[[], T], stop: Callable[[], object] | None) -> T:
    """Run in a thread of its own, so that Ctrl-C is heard at once, stops the run and is passed on.

    Where a solver runs in the main thread, Ctrl-C waits for its end, or is raised in a callback.

    Parameters
    ----------
    run : callable
        Runs the solver.
    stop : callable or None
        Asks it to stop; without one it is left alone.
    """
    if threading.current_thread() is not threading.main_thread():
        return run()  # Ctrl-C does not come here
    outcome: Future[T] = Future()
    try:
        threading.Thread(target=_settle, args=(outcome, run), daemon=True).start()
        return outcome.result()
    except KeyboardInterrupt:
        if stop is not None:
            with contextlib.suppress(KeyboardInterrupt, TimeoutError):
                stop()
                outcome.exception(PATIENCE_S)
        raise


def _settle(outcome: Future[T], run: Callable[[], T]) -> None:
    try:
        outcome.set_result(run())
    except BaseException as error:
        outcome.set_exception(error)
