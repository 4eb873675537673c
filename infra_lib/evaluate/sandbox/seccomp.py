"""A filter of system calls for programs in namespaces: what no exercise needs is not there.

Namespaces hide files, processes and networks, but leave the kernel's rarer doors open: nested
namespaces, which give a program capabilities to try on it; address families that network
namespaces do not contain (vsock reaches a virtual machine's host); kernel memory that no limit
counts (System V shared memory outlives its process; what a program shares with its children and
then unmaps is nobody's); a program's own choice to outlive who grades it. The filter closes them.
It allows the rest, so that it cannot break an honest program: of these, only one that shares
memory between its own processes meets a refusal.

The filter is classic BPF over ``struct seccomp_data`` (``linux/seccomp.h``), which bubblewrap
takes from a file descriptor. System call numbers are from the kernel's ``unistd.h``; where the
machine is neither x86-64 nor 64-bit ARM there is no filter.
"""

from __future__ import annotations

import errno
import platform
import struct
from functools import cache

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT, _FOURTH_ARGUMENT = 0, 4, 16, 40

NEW_NAMESPACES = 0x7E020000
"""Flags of ``clone`` that make a namespace."""

FAMILIES = (1, 2, 10)
"""Address families that remain: Unix, IPv4 and IPv6; the network namespace holds nothing behind them."""

MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}

# name: number on x86-64, number on 64-bit ARM (None: it does not exist there)
DENIED: dict[str, tuple[int | None, int | None]] = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "quotactl": (179, 60),
    "acct": (163, 89),
    "syslog": (103, 116),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "personality": (135, 92),
    "fanotify_init": (300, 262),
    "vmsplice": (278, 75),
    "move_pages": (279, 239),
    "migrate_pages": (256, 238),
    "modify_ldt": (154, None),
    "iopl": (172, None),
    "ioperm": (173, None),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
}
_CLONE, _CLONE3, _SOCKET, _MMAP, _PRCTL = (56, 220), (435, 435), (41, 198), (9, 222), (157, 167)
_DEATH_SIGNAL = 1
"""``PR_SET_PDEATHSIG``: by it a program ends with the process that grades it, and could choose not to."""
_SHARED = 1
"""Bit of ``mmap``'s flags in ``MAP_SHARED`` and ``MAP_SHARED_VALIDATE``, and in no other kind of map."""


@cache
def seccomp_filter(machine: str | None = None) -> bytes | None:
    """Return the filter's program for a machine (this one by default), or None where there is none."""
    known = MACHINES.get(machine or platform.machine())
    if known is None:
        return None
    architecture, column = known
    code = [_jump(_LOAD, _ARCHITECTURE), _jump(_EQUAL, architecture, 1, 0), _jump(_RETURN, _KILL)]
    code.append(_jump(_LOAD, _NUMBER))
    if column == 0:  # the x32 calls of x86-64 are the same calls under other numbers
        code += [_jump(_AT_LEAST, 0x40000000, 0, 1), _jump(_RETURN, _ERRNO | errno.ENOSYS)]
    for numbers in DENIED.values():
        if numbers[column] is not None:
            code += [_jump(_EQUAL, numbers[column], 0, 1), _jump(_RETURN, _ERRNO | errno.EPERM)]
    # clone3 passes its flags in memory, where a filter cannot look: C libraries then use clone.
    code += [_jump(_EQUAL, _CLONE3[column], 0, 1), _jump(_RETURN, _ERRNO | errno.ENOSYS)]
    code += _refused(_MMAP[column], _FOURTH_ARGUMENT, _ANY_BIT, _SHARED)
    code += _refused(_PRCTL[column], _FIRST_ARGUMENT, _EQUAL, _DEATH_SIGNAL)
    code += _refused(_CLONE[column], _FIRST_ARGUMENT, _ANY_BIT, NEW_NAMESPACES)
    code += [_jump(_EQUAL, _SOCKET[column], 0, len(FAMILIES) + 2), _jump(_LOAD, _FIRST_ARGUMENT)]
    for position, family in enumerate(FAMILIES):
        code.append(_jump(_EQUAL, family, len(FAMILIES) - position, 0))
    code += [_jump(_RETURN, _ERRNO | errno.EAFNOSUPPORT), _jump(_RETURN, _ALLOW)]
    return b"".join(code)


def _refused(call: int, argument: int, test: int, value: int) -> list[bytes]:
    """Return what refuses a call where a test of one of its arguments holds, and allows it otherwise."""
    return [
        _jump(_EQUAL, call, 0, 4),
        _jump(_LOAD, argument),
        _jump(test, value, 0, 1),
        _jump(_RETURN, _ERRNO | errno.EPERM),
        _jump(_RETURN, _ALLOW),
    ]


def _jump(operation: int, value: int | None, then: int = 0, otherwise: int = 0) -> bytes:
    """Return one ``struct sock_filter``: code, jumps where true and where false, operand."""
    return struct.pack("<HBBI", operation, then, otherwise, value or 0)
