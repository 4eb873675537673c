"""How a sandbox is walled off on this machine, found by trying it.

Two kinds exist. ``bubblewrap`` gives a program namespaces of its own, a read-only view of the
interpreter and the C libraries and of nothing else, a small folder, and a filter of system
calls. ``process`` gives it a process with limits, which keeps accidents in and lets a determined
program out; it must be asked for by name.
"""

from __future__ import annotations

import itertools
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from infra_lib.errors import InfraError, ParameterError
from infra_lib.evaluate.sandbox.outcome import Limits
from infra_lib.evaluate.sandbox.seccomp import seccomp_filter
from infra_lib.evaluate.sandbox.view import interpreter_file, others_may_read, view

CHOICES = ("auto", "bubblewrap", "process")
_LOADER = """
import marshal, os, sys
def take(size):
    data = b''
    while len(data) < size:
        part = os.read(0, size - len(data))
        if not part: os._exit(97)
        data += part
    return data
request = marshal.loads(take(int(take(8), 16)))
for name, code in request.pop('modules'):
    module = sys.modules[name] = type(sys)(name)
    exec(code, module.__dict__)
module.main(request)
"""


class SandboxError(InfraError):
    """Programs that a model wrote cannot be run safely on this machine; the message says what to do."""


@dataclass(frozen=True)
class Isolation:
    """A way to start sandboxed processes.

    Attributes
    ----------
    kind
        ``bubblewrap`` or ``process``.
    as_root
        Whether root starts it, so that each program can get a real user of its own. A namespace that
        merely renames root would leave it without a limit on processes.
    narrow
        Whether the interpreter and its C libraries alone are visible, rather than all of ``/usr``.
    """

    kind: str
    as_root: bool = False
    narrow: bool = True

    @property
    def filter(self) -> bytes | None:
        """The filter of system calls, or None where there is none for this machine."""
        return seccomp_filter() if self.kind == "bubblewrap" else None

    def user(self) -> int | None:
        """Return a user for the next program, or None to leave it as it starts."""
        if not self.as_root or (self.kind == "process" and not others_may_read(interpreter_file())):
            return None
        return _fresh_user()

    def command(self, limits: Limits, *, status: int, filter_from: int | None) -> list[str]:
        """Return the command line of a sandboxed interpreter that waits for a request.

        Parameters
        ----------
        status, filter_from
            Descriptors on which bubblewrap reports and from which it reads the filter.
        """
        # No site, no paths of the user, no bytecode files; -I would also drop the hash seed.
        python = [str(interpreter_file()), "-P", "-s", "-S", "-B", "-X", "utf8", "-c", _LOADER]
        if self.kind == "process":
            return python
        return [
            str(shutil.which("bwrap")),
            *(_ROOT if self.as_root else _NOBODY),
            *["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"],
            *["--hostname", "sandbox", "--die-with-parent", "--new-session"],
            *view(self.narrow),
            *["--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev", "--perms", "1777", "--size"],
            str(limits.folder_mb * 2**20),
            *[
                "--tmpfs",
                "/tmp",
                "--chdir",
                "/tmp",
                "--remount-ro",
                "/",
                "--clearenv",
                "--setenv",
                "PYTHONHASHSEED",
                "0",
            ],
            "--json-status-fd",
            str(status),
            *([] if filter_from is None else ["--seccomp", str(filter_from)]),
            "--",
            *python,
        ]


# Root keeps what it needs to become somebody else, which the driver does before any program starts.
_ROOT = ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
# A user's own namespace holds one user only, whom bubblewrap's first process would be too: without a filter,
# and open to its memory being rewritten. So the program takes that process's place.
_NOBODY = ["--as-pid-1", "--unshare-user", "--uid", "65534", "--gid", "65534", "--cap-drop", "ALL"]


_users: Iterator[int] = itertools.count()


def _fresh_user() -> int:
    """Return a user that nothing else runs as: the kernel counts processes by user.

    Numbers above 2,000,000,000 belong to nobody; where root's own namespace does not reach that far, some
    from 60,100 up must do.
    """
    number = (os.getpid() * 97 + next(_users)) % 100_000_000
    try:
        rows = [list(map(int, row.split())) for row in Path("/proc/self/uid_map").read_text().splitlines()]
    except OSError:
        rows = []
    wide = any(first <= 2_000_000_000 and first + count > 2_100_000_000 for first, _, count in rows)
    return 2_000_000_000 + number if wide else 60_100 + number % 4_000


@cache
def _probe_all() -> tuple[Isolation | None, str]:
    """Return the tightest isolation that works here, or None and why bubblewrap does not."""
    if sys.platform != "linux":
        return None, "bubblewrap exists for Linux only"
    if shutil.which("bwrap") is None:
        return None, "bubblewrap is not installed"
    as_root = [True, False] if os.geteuid() == 0 else [False]
    reason = ""
    for root, narrow in itertools.product(as_root, (True, False)):
        found = Isolation("bubblewrap", root, narrow)
        problem = _probe(found)
        if problem is None:
            return found, ""
        reason = reason or problem
    return None, f"bubblewrap does not work here ({reason})"


_PROBE = """
import os
assert os.getuid() != 0, 'the program would run as root'
assert not os.path.exists({here!r}), 'the project lies inside what the interpreter needs'
assert len([name for name in os.listdir('/proc') if name.isdigit()]) < 5, 'other processes are visible'
cards = [line.split(':')[0].strip() for line in open('/proc/net/dev') if ':' in line]
assert set(cards) <= {{'lo'}}, 'there is a network'
# Root without a namespace of users that renames it would own them, whatever it is called inside.
assert not os.access('/proc/sys/kernel/core_pattern', os.W_OK), "the kernel's own switches could be turned"
if not os.fork(): os._exit(0)
os.wait()
open('written', 'w').close()
print(6 * 7)
"""


def _probe(isolation: Isolation) -> str | None:
    """Return None where a program runs as it should, else what is wrong."""
    from infra_lib.evaluate.sandbox.process import execute

    try:
        outcome = execute(isolation, Limits(), program=_PROBE.format(here=str(Path(__file__).resolve())))
    except (OSError, SandboxError) as error:
        return str(error)
    if outcome.status == "ok" and outcome.stdout.strip() == "42":
        return None
    return (outcome.stderr.strip().splitlines() or [outcome.status])[-1]


def resolve(choice: str = "auto") -> Isolation:
    """Return the isolation for a choice.

    Parameters
    ----------
    choice
        ``auto`` or ``bubblewrap`` (namespaces, or nothing runs), or ``process``, which accepts that a
        program with bad intentions can read what its user can read, use the network and stay behind.

    Raises
    ------
    ParameterError
        For another choice.
    SandboxError
        Where namespaces are wanted and do not work, with the command that installs bubblewrap.
    """
    if choice not in CHOICES:
        raise ParameterError("sandbox", choice, f"one of {', '.join(CHOICES)}")
    if choice == "process":
        return Isolation("process", as_root=os.geteuid() == 0)
    found, reason = _probe_all()
    if found is None:
        raise SandboxError(
            f"programs that a model wrote are run in a sandbox only, and {reason}: "
            f"{remedy(reason)}, or accept plain processes with limits by -p sandbox=process"
        )
    return found


_APPARMOR = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")


def remedy(reason: str) -> str:
    """Return the one command to type, for what keeps bubblewrap from working."""
    if "not installed" not in reason:
        if os.geteuid() and _APPARMOR.is_file() and _APPARMOR.read_text().strip() == "1":
            return "type `sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`"
        return "run it where user namespaces are allowed (in a container: --privileged, or a rootless engine)"
    managers = {
        "apt-get": "apt-get install -y bubblewrap",
        "dnf": "dnf install -y bubblewrap",
        "pacman": "pacman -S --noconfirm bubblewrap",
        "zypper": "zypper install -y bubblewrap",
        "apk": "apk add bubblewrap",
    }
    sudo = "" if os.geteuid() == 0 else "sudo "
    found = [command for name, command in managers.items() if shutil.which(name)]
    return f"type `{sudo}{found[0]}`" if found else "install the package bubblewrap"


def isolation(choice: str = "auto") -> str:
    """Return ``bubblewrap`` or ``process``, or ``none`` where programs would be refused."""
    try:
        return resolve(choice).kind
    except SandboxError:
        return "none"
