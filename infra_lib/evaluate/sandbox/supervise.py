"""Attend to sandboxes: carry what goes in and comes out, keep the clock, look at what they use."""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable, Sequence

from infra_lib.evaluate.sandbox.box import Box

START_SECONDS = 30.0
"""Time in which a sandbox must stand; a later one is a fault of the machine, not of the program."""

_LOOK_SECONDS = 0.02


def supervise(
    boxes: Sequence[Box], finished: Callable[[], bool], *, wall: float | None = None
) -> tuple[Box | None, str | None]:
    """Attend to boxes until they are finished, or one of them takes too long or too much.

    Parameters
    ----------
    boxes
        Those to attend to.
    finished
        Whether it is over.
    wall
        Seconds on the clock from when all have begun; by default what their limits say.

    Returns
    -------
    tuple
        The box that was the reason for an early end, and its status; (None, None) without one, and
        (None, status) where it was nobody's alone.
    """
    wall = wall or min(box.limits.wall_seconds for box in boxes)
    deadline = time.monotonic() + START_SECONDS
    begun = False
    with selectors.DefaultSelector() as selector:
        for box in boxes:
            box.register(selector)
        look_at = time.monotonic() + _LOOK_SECONDS
        while not finished():
            now = time.monotonic()
            if now >= deadline:
                return None, "timeout"
            for key, _ in selector.select(max(0.0, min(deadline, look_at) - now)):
                if not key.data.serve(key.fd):
                    selector.unregister(key.fileobj)
            if not begun and all(box.begun for box in boxes):
                begun, deadline = True, time.monotonic() + wall
                for box in boxes:
                    box.started = time.monotonic()
            if any(box.written > box.limits.output_bytes for box in boxes):
                look_at = 0.0
            if time.monotonic() >= look_at:
                for box in boxes:
                    if status := box.look():
                        return box, status
                look_at = time.monotonic() + _LOOK_SECONDS
    return None, None
