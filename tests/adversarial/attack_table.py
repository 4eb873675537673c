"""What an attack is: a title, a program, and the ends that it may come to.

Attacks are bounded, so that a sandbox that fails harms nothing: at most 256 processes, signal 0 in
place of a kill, files opened and not written, sizes that a disk and a memory bear.
"""

from __future__ import annotations

from dataclasses import dataclass

from infra_lib.evaluate.sandbox import Limits

LIMITS = Limits(cpu_seconds=1, wall_seconds=8.0)

SHORT = Limits(cpu_seconds=1, wall_seconds=1.0)
"""For attacks that are meant to end by the clock."""

PATIENT = Limits(cpu_seconds=6, wall_seconds=8.0)
"""For attacks that are meant to end by their memory, which takes a slow machine a second to fill."""

SECRET = 987654321
"""A value that tests expect and that no program can find."""

PRELUDE = """
import ctypes, errno, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
def attempt(what):
    try:
        found = what()
    except BaseException as error:
        print('held:', type(error).__name__, error)
    else:
        print('ESCAPED:', repr(found)[:200])
def system(number, *arguments):
    # A call of the kernel by number (x86-64, 64-bit ARM), which must be refused.
    number = number[os.uname().machine == 'aarch64']
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return number
"""
"""In front of attempts to escape: each prints ``held`` or ``ESCAPED``."""


@dataclass(frozen=True)
class Attack:
    """A program with bad intentions.

    Attributes
    ----------
    title
        One line for the page that lists attacks and what became of them.
    program
        Source; ``@FOLDER@``, ``@PARENT@``, ``@PORT@`` and ``@TEST@`` stand for what the test puts there.
    ends
        Statuses of which one must come.
    way
        ``run`` (a script), ``call`` (its function ``f`` is called and must return the secret) or
        ``tests`` (an assertion wants the secret from ``f``).
    control
        Whether the same program does escape from a plain process, which shows that the test can fail.
    """

    title: str
    program: str
    ends: tuple[str, ...]
    way: str = "run"
    control: bool = False

    @property
    def limits(self) -> Limits:
        """What the program may use."""
        return {"timeout": SHORT, "memory": PATIENT}.get(self.ends[0], LIMITS)


def escape(title: str, attempts: str, *, control: bool = False) -> Attack:
    """Return an attack of which every attempt must be held."""
    return Attack(title, PRELUDE + attempts, ("ok",), control=control)


def forge(title: str, program: str, *ends: str) -> list[Attack]:
    """Return an attack on the grade, once by calls and once by tests."""
    return [
        Attack(f"{title} ({name})", program, ends or ("wrong", "error"), way)
        for way, name in (("call", "values compared"), ("tests", "assertions"))
    ]
