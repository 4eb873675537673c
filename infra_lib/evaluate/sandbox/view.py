"""What of the machine's files a program in namespaces sees: the interpreter and what it needs."""

from __future__ import annotations

import os
import platform
import sys
import sysconfig
from functools import cache
from pathlib import Path


@cache
def view(narrow: bool) -> list[str]:
    """Return the options that show the interpreter and what it needs, read-only, and no packages."""
    extensions = Path(sysconfig.get_config_var("DESTSHARED") or Path(os.__file__).parent / "lib-dynload")
    stdlib = list(dict.fromkeys([Path(os.__file__).parent, extensions.parent]))
    private = Path(sys.base_prefix) not in (Path("/usr"), Path("/usr/local"), Path("/"))
    if narrow:
        libraries = Path(
            "/usr/lib", sysconfig.get_config_var("MULTIARCH") or f"{platform.machine()}-linux-gnu"
        )
        shared = sorted(Path(sysconfig.get_config_var("LIBDIR") or "/usr/lib").glob("libpython*.so*"))
        visible = [libraries if libraries.is_dir() else Path("/usr/lib"), Path("/usr/lib64"), *shared]
        visible += [Path("/etc/ld.so.cache"), interpreter_file(), *stdlib]
        visible += [Path(sys.base_prefix, "lib")] if private else []
    else:
        visible = [Path("/usr"), Path("/nix/store"), Path("/gnu/store"), *stdlib]
        visible += [Path(sys.base_prefix)] if private else []
    shown = _outermost(visible)
    # Folders on the way, so that the program's user can pass where the machine's own are private.
    on_the_way = sorted({folder for path in shown for folder in list(path.parents)[:-1]})
    options = [part for folder in on_the_way for part in ("--perms", "0755", "--dir", str(folder))]
    options += [part for path in shown for part in ("--ro-bind", str(path), str(path))]
    for path in (Path("/lib"), Path("/lib64")):
        if path.is_symlink():
            options += ["--symlink", str(path.readlink()), str(path)]
        else:
            options += ["--ro-bind-try", str(path), str(path)]
    hidden = [folder / name for folder in stdlib for name in ("site-packages", "dist-packages")]
    hidden += [] if narrow else [Path("/usr/local"), Path("/usr/lib/python3/dist-packages"), Path("/usr/src")]
    for path in hidden:
        if path.is_dir() and not any(path == kept or path in kept.parents for kept in stdlib):
            options += ["--tmpfs", str(path), "--remount-ro", str(path)]
    return options


def _outermost(paths: list[Path]) -> list[Path]:
    """Return the paths that exist and lie in no other of them, in order."""
    there = [path for path in dict.fromkeys(paths) if path.exists()]
    return [path for path in there if not any(other in path.parents for other in there)]


def interpreter_file() -> Path:
    """Return the base interpreter, not the environment's, whose packages no program needs."""
    return Path(getattr(sys, "_base_executable", None) or sys.executable).resolve()


def others_may_read(path: Path) -> bool:
    """Return whether any user can run a program at this path."""
    return all(part.stat().st_mode & 0o001 for part in (path, *path.parents))
