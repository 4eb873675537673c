"""The first code in a sandbox: take the limits, then run the program or serve its functions.

It travels to a bare interpreter as compiled code, ahead of the request, and imports nothing
that costs time. What the program should answer is not in the request, so there is nothing
here to find; a program that changes or replaces this code changes its own answers only.
"""

import marshal
import os
import sys

from infra_lib.evaluate.sandbox.wire import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any
else:
    Any = object  # importing typing would take longer than all else here

OUT_OF_MEMORY = 99
"""Exit status that says so."""


def main(request: dict[str, Any]) -> None:
    """Do what a request asks for; its keys are those of the parent's module ``process``."""
    for name, text in request["files"].items():
        with open(os.path.basename(name), "w", encoding="utf-8") as stream:
            stream.write(text)
    program, report = request["program"], request["report"]
    begin(request)
    # Nothing of the sandbox's own stays in the table of modules to confuse a program that looks there.
    for name in [name for name in sys.modules if name.startswith("infra_lib")]:
        del sys.modules[name]
    try:
        if request["calls"] is None:
            _module("__main__", program)
        else:
            _serve(program, request["calls"], request["answers"])
    except MemoryError:
        _report(report)
        os._exit(OUT_OF_MEMORY)
    finally:
        _report(report)


def begin(request: dict[str, Any]) -> None:
    """Take the limits and tell the parent that the sandbox stands: from here on the clock runs."""
    os.environ.clear()  # it held the hash seed, which makes sets come in one order in every run
    take_limits(request["limits"], request["user"])
    os.write(request["report"], b"begun\n")


def take_limits(limits: dict[str, Any], user: int | None) -> None:
    """Become the sandbox's user where root starts it, and set resource limits for good.

    They hold for this process and all that it starts. The soft limit on processor time ends the program
    with SIGXCPU, which tells a timeout from other kills; one that ignores it meets the hard limit.
    """
    import resource

    if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
        if 0 in (*os.getresuid(), *os.getresgid()):
            raise PermissionError("the sandbox did not get a user of its own")
    mebibyte = 2**20
    # The first process of a namespace does not get the soft limit's signal: the hard limit must do there.
    grace = 0 if os.getpid() == 1 else 1
    for name, soft, hard in (
        ("CPU", limits["cpu_seconds"], limits["cpu_seconds"] + grace),
        ("AS", limits["memory_mb"] * mebibyte, None),
        ("FSIZE", limits["file_mb"] * mebibyte, None),
        ("NOFILE", limits["open_files"], None),
        ("NPROC", limits["processes"], None),
        ("STACK", 8 * mebibyte, None),
        ("CORE", 0, None),
        ("MEMLOCK", 0, None),
        ("MSGQUEUE", 0, None),
        ("RTPRIO", 0, None),
    ):
        if soft is not None:
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (soft, soft if hard is None else hard))


def _module(name: str, program: str) -> dict[str, Any]:
    """Run a program as a module of that name and return its names."""
    module = type(sys)(name)
    sys.modules[name] = module
    exec(compile(program, "program.py", "exec", dont_inherit=True), module.__dict__)
    return module.__dict__


def _serve(program: str, calls: int, answers: int) -> None:
    """Define the program's functions, then answer calls until there are no more.

    A call is a marshalled ``(function, arguments, keywords)`` behind its length; it comes from code that
    is trusted here. An answer is an encoded list: ``["value", value, arguments after the call]`` or
    ``["raise", type, message]``. What the program prints is dropped.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    scope = _module("program", program)
    while header := read(calls, 4):
        name, arguments, keywords = marshal.loads(read(calls, int.from_bytes(header, "big")))
        try:
            value = find(scope, name)(*arguments, **keywords)
            answer = encode(["value", value, arguments])
        except MemoryError:
            raise
        except Exception as error:
            sys.excepthook(type(error), error, error.__traceback__)
            answer = encode(["raise", type(error).__name__, str(error)[:1000]])
        write(answers, len(answer).to_bytes(4, "big") + answer)


def find(scope: dict[str, Any], name: str) -> Any:
    """Return a function by name; ``Class.method`` is the method of a new instance."""
    first, *rest = name.split(".")
    found = scope[first]
    for part in rest:
        found = getattr(found() if isinstance(found, type) else found, part)
    return found


def read(descriptor: int, size: int) -> bytes:
    """Return ``size`` bytes, or fewer where the stream ends."""
    data = b""
    while len(data) < size and (part := os.read(descriptor, size - len(data))):
        data += part
    return data


def write(descriptor: int, data: bytes) -> None:
    """Write all of the data."""
    while data:
        data = data[os.write(descriptor, data) :]


def _report(descriptor: int) -> None:
    """Say how much memory this process had at its peak, in KiB."""
    import resource

    try:
        os.write(descriptor, b"%d\n" % resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    except OSError:  # the program has closed it; contextlib would cost an import
        return
