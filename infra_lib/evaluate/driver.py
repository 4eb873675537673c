"""The first code in a sandboxed process: take the limits, then run the program.

It is given as a file to a bare interpreter and imports the standard library only. It
reads one JSON request from standard input. When the request names a function, standard
output is kept for the returned values and what the program prints is dropped.
"""

import io
import json
import os
import resource
import sys


def take_limits(limits: dict) -> None:
    """Set resource limits; they hold for this process and all that it starts."""
    megabyte = 2**20
    pairs = [
        (resource.RLIMIT_AS, limits["memory_mb"] * megabyte),
        (resource.RLIMIT_FSIZE, limits["file_mb"] * megabyte),
        (resource.RLIMIT_NOFILE, limits["open_files"]),
        (resource.RLIMIT_CORE, 0),
    ]
    if limits["own_user"]:
        pairs.append((resource.RLIMIT_NPROC, limits["processes"]))
    # The soft limit ends the program with SIGXCPU, which tells a timeout from other kills.
    resource.setrlimit(resource.RLIMIT_CPU, (limits["cpu_seconds"], limits["cpu_seconds"] + 1))
    for what, value in pairs:
        resource.setrlimit(what, (value, value))


def main() -> None:
    """Read the request, take the limits, run."""
    request = json.loads(sys.stdin.buffer.read())
    for name, text in request["files"].items():
        with open(os.path.basename(name), "w", encoding="utf-8") as stream:
            stream.write(text)
    take_limits(request["limits"])
    scope: dict = {"__name__": "__main__"}
    if "function" not in request:
        sys.stdin = io.StringIO(request["stdin"])
        exec(compile(request["program"], "program.py", "exec"), scope)
        return
    answer = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    scope["__name__"] = "program"
    exec(compile(request["program"], "program.py", "exec"), scope)
    function = scope[request["function"]]
    values = [function(*arguments) for arguments in request["arguments"]]
    with os.fdopen(answer, "w") as stream:
        json.dump(values, stream)


main()
