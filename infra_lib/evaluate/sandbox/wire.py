"""Values of plain Python types as bytes, and back: how answers leave a sandbox.

Answers come from a hostile process, so reading them must build nothing but plain values: no
pickle, no marshal, no code, no classes. The format is netstrings with a type:
``<tag><length>:<payload>``, where a container's payload is its items' encodings, one after
the other. A reader needs no library, which keeps the interpreter's start short; this module
imports nothing, because it is also loaded inside the sandbox.

========= ===================================== =========================
tag       type                                  payload
========= ===================================== =========================
``n``     None                                  nothing
``?``     bool                                  ``0`` or ``1``
``i``     int                                   hexadecimal, any size
``f``     float                                 ``float.hex``
``c``     complex                               two floats
``s``     str                                   UTF-8, surrogates passed
``b``     bytes                                 the bytes
``l t``   list, tuple                           items
``e z``   set, frozenset                        items
``d``     dict                                  keys and values in turn
``r``     range                                 start, stop, step
``~``     any other iterable                    its items, at most 100,000; read as an iterator
``o``     any other object                      the name of its type
========= ===================================== =========================

An instance of a subclass travels as its plain base, so that a class of the program's own
(with an ``__eq__`` that always agrees, say) never reaches a comparison.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any
else:
    Any = object  # importing typing would take longer than all else here

ITERATED = 100_000
"""Items that are taken from an iterator."""

DEPTH = 100
"""Containers within containers that a reader follows."""

HASHED = 20_000
"""Items of sets and keys of dicts that a reader takes, all containers together: a program can choose values
that all hash alike, of which each is compared with all before it."""


class Opaque:
    """Stands for a value that cannot travel; it equals nothing and is neither true nor false."""

    __slots__ = ("kind",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __eq__(self, other: object) -> bool:
        return False

    def __bool__(self) -> bool:
        raise TypeError(f"the program returned an object of type {self.kind}, which is no plain value")

    def __repr__(self) -> str:
        return f"<an object of type {self.kind}>"


def encode(value: Any) -> bytes:
    """Return a value's encoding; it never fails for want of a type, only for depth or memory."""
    if value is None:
        return b"n0:"
    if value is True or value is False:
        return b"?1:1" if value else b"?1:0"
    for kind, tag, pack in _SCALARS:
        if isinstance(value, kind):
            return _frame(tag, pack(value))
    for kind, tag in _CONTAINERS:
        if isinstance(value, kind):
            return _frame(tag, b"".join([encode(item) for item in kind.__iter__(value)]))
    if isinstance(value, dict):
        return _frame(b"d", b"".join([encode(part) for pair in dict.items(value) for part in pair]))
    if isinstance(value, range):
        return _frame(b"r", encode(value.start) + encode(value.stop) + encode(value.step))
    if hasattr(type(value), "__iter__"):
        items = [item for _, item in zip(range(ITERATED), value, strict=False)]
        return _frame(b"~", b"".join([encode(item) for item in items]))
    return _frame(b"o", type(value).__name__.encode("utf-8", "surrogatepass"))


def _frame(tag: bytes, payload: bytes) -> bytes:
    return b"%b%d:%b" % (tag, len(payload), payload)


_SCALARS: tuple[tuple[type, bytes, Any], ...] = (
    (int, b"i", lambda value: b"%x" % int(value) if value >= 0 else b"-%x" % -int(value)),
    (float, b"f", lambda value: float.hex(value).encode()),
    (str, b"s", lambda value: str.encode(value, "utf-8", "surrogatepass")),
    (complex, b"c", lambda value: encode(value.real) + encode(value.imag)),
    (bytes, b"b", lambda value: bytes(value)),
)
_CONTAINERS: tuple[tuple[Any, bytes], ...] = (
    (list, b"l"),
    (tuple, b"t"),
    (set, b"e"),
    (frozenset, b"z"),
)


def decode(data: bytes) -> Any:
    """Return the value of an encoding.

    Raises
    ------
    ValueError
        For bytes that are no encoding of one value.
    """
    try:
        value, end = _decode(data, 0, DEPTH, [HASHED])
    except (TypeError, OverflowError, UnicodeDecodeError, MemoryError) as error:
        raise ValueError(f"no encoding of a value ({type(error).__name__})") from None
    if end != len(data):
        raise ValueError("no encoding of one value: bytes are left over")
    return value


def _decode(data: bytes, start: int, depth: int, room: list[int]) -> tuple[Any, int]:
    if depth < 0:
        raise ValueError("containers are nested too deep")
    colon = data.index(b":", start + 1, start + 16)
    digits = data[start + 1 : colon]
    if not digits.isdigit():
        raise ValueError("a length is no number")
    first, end = colon + 1, colon + 1 + int(digits)
    if end > len(data):
        raise ValueError("an encoding is cut short")
    tag = data[start : start + 1]
    if tag in b"ltez~drc":
        items = []
        at = first
        while at < end:
            item, at = _decode(data, at, depth - 1, room)
            items.append(item)
        if at != end:
            raise ValueError("an item reaches beyond its container")
        if tag in b"ezd":
            room[0] -= len(items) // 2 if tag == b"d" else len(items)
            if room[0] < 0:
                raise ValueError("more items of sets and keys of dicts than are read")
        return _container(tag, items), end
    return _scalar(tag, data[first:end]), end


def _container(tag: bytes, items: list[Any]) -> Any:
    if tag == b"d":
        return dict(zip(items[::2], items[1::2], strict=True))
    if tag in b"rc":
        return (range if tag == b"r" else complex)(*items)
    make: Any = {b"l": list, b"t": tuple, b"e": set, b"z": frozenset, b"~": iter}[tag]
    return make(items)


def _scalar(tag: bytes, payload: bytes) -> Any:
    if tag == b"i":
        return int(payload, 16)
    if tag == b"s":
        return payload.decode("utf-8", "surrogatepass")
    if tag == b"f":
        return float.fromhex(payload.decode("ascii"))
    if tag == b"o":
        return Opaque(payload.decode("utf-8", "replace")[:100])
    plain = {b"n": None, b"?": payload == b"1", b"b": payload}
    if tag not in plain:
        raise ValueError(f"unknown tag {tag!r}")
    return plain[tag]
