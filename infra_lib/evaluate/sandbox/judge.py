"""Trusted tests in an interpreter of their own, which asks the program's sandbox for values.

Assertions must not run beside the code that they judge: a program could end the process with
success, replace ``AssertionError``, or return an object whose ``__eq__`` always agrees. So the
tests run here, in a second sandbox that no code of the program ever enters. Each use of the
program's function is a message to the program's sandbox, and what comes back is rebuilt as
values of plain built-in types before a test sees it. The verdict leaves through a pipe that
exists in this process alone.
"""

import builtins
import marshal
import os
from types import CodeType

from infra_lib.evaluate.sandbox.driver import begin, read, write
from infra_lib.evaluate.sandbox.wire import decode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any
else:
    Any = object  # importing typing would take longer than all else here


class Gone(BaseException):
    """The program's process has ended or answers nonsense; no test can catch this by accident."""


class Unsendable(BaseException):
    """The tests pass something that is no plain value."""


class RemoteError(Exception):
    """The program raised an exception of a type that is not built in."""


class Remote:
    """A function of the program: calling it sends the arguments over and waits for the value."""

    def __init__(self, name: str, request: dict[str, Any]) -> None:
        self.__name__ = name
        self._request = request

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Return what the program's function returns, or raise what it raised."""
        request = self._request
        try:
            call = marshal.dumps((self.__name__, list(arguments), keywords))
        except ValueError:
            raise Unsendable(f"{self.__name__} is called with an argument that is no plain value") from None
        try:
            write(request["calls"], len(call).to_bytes(4, "big") + call)
            size = int.from_bytes(read(request["answers"], 4) or b"\xff" * 4, "big")
            if size > request["limits"]["output_bytes"]:
                raise Gone("output" if size != 2**32 - 1 else "gone")
            answer = decode(read(request["answers"], size))
            kind, first, second = answer
        except (OSError, ValueError, TypeError):
            raise Gone("gone") from None
        if kind != "value":
            raise _exception(first, second)
        _keep_changes(arguments, second)
        return first


def _exception(name: Any, message: Any) -> Exception:
    """Return a built-in exception by its name, so that tests may expect one."""
    found = getattr(builtins, name, None) if isinstance(name, str) else None
    if isinstance(found, type) and issubclass(found, Exception) and found is not AssertionError:
        try:
            return found(message)
        except TypeError:  # UnicodeDecodeError and the like want more than a message
            pass
    return RemoteError(f"{name}: {message}")


def _keep_changes(before: Any, after: Any) -> None:
    """Carry changes that the function made to its lists, dicts and sets back to the tests' own."""
    if type(after) is not list or len(after) != len(before):
        return
    for old, new in zip(before, after, strict=True):
        if type(old) is type(new) and type(old) in (list, dict, set) and old != new:
            old.clear()
            (old.extend if type(old) is list else old.update)(new)


def main(request: dict[str, Any]) -> None:
    """Run the tests and write the verdict: a status, and what to tell a person."""
    begin(request)
    verdict = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    status, reason = judge(request)
    write(verdict, f"{status}\n{reason[:2000]}".encode("utf-8", "replace"))
    os._exit(0)


def judge(request: dict[str, Any]) -> tuple[str, str]:
    """Return the status and the reason of ``ok``, ``wrong``, ``error``, ``refused``, ``gone``, ``output``."""
    entry_point = request["entry_point"]
    scope: dict[str, Any] = {"__name__": "tests"}
    try:
        tests = compile(request["tests"], "tests.py", "exec", dont_inherit=True)
        exec(compile(request["setup"], "setup.py", "exec", dont_inherit=True), scope)
    except Exception as error:
        return "refused", f"the tests themselves fail: {type(error).__name__}: {error}"
    wanted = names_of(tests) - set(scope) - set(vars(builtins))
    for name in {*wanted, *([entry_point.split(".")[0]] if entry_point else [])}:
        scope[name] = Remote(name, request)
    try:
        exec(tests, scope)
        if entry_point and callable(scope.get("check")) and not isinstance(scope["check"], Remote):
            scope["check"](Remote(entry_point, request))
    except AssertionError as error:
        return "wrong", str(error) or "an assertion does not hold"
    except Gone as error:
        return str(error), "the program ended before the tests did"
    except Unsendable as error:
        return "refused", str(error)
    except MemoryError:
        return "error", "the tests ran out of memory"
    except BaseException as error:
        return "error", f"{type(error).__name__}: {error}"
    return "ok", ""


def names_of(code: CodeType) -> set[str]:
    """Return the global names that a piece of code and the functions in it use."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= names_of(constant)
    return names
