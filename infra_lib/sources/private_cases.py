"""Read LiveCodeBench's hidden test cases without unpickling anything.

The column ``private_test_cases`` is either JSON, or base64 of zlib of a pickle that holds one text,
which is JSON. A pickle is a program, and loading one runs it: whoever can change the file can run
code here. So it is read and not run: its opcodes are listed (``pickletools.genops`` decodes them and
executes none), and only the few that spell one text are accepted. Sizes are capped before memory is
taken.
"""

from __future__ import annotations

import base64
import binascii
import json
import pickletools
import zlib
from typing import Any

from infra_lib.sources.rows import BadRow, shorten

LARGEST = 2**29
"""Bytes that one row's cases may have when they are unpacked (512 MiB)."""

_TEXT = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE"}
_AROUND = {"PROTO", "FRAME", "MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT", "STOP"}


def decode_cases(packed: str, *, largest: int = LARGEST) -> list[dict[str, str]]:
    """Return test cases: dictionaries with ``input``, ``output`` and ``testtype``.

    Raises
    ------
    BadRow
        Saying at which layer the text is not what it must be; a pickle with any other opcode is named
        with that opcode and is never run.
    """
    if not isinstance(packed, str):
        raise BadRow(f"test cases are {shorten(packed)}; they must be text")
    if packed.lstrip()[:1] in ("[", "{"):
        return check_cases(_json(packed))
    return check_cases(_json(text_of_pickle(unpack(packed, largest))))


def unpack(packed: str, largest: int) -> bytes:
    """Return the bytes behind base64 and zlib, at most ``largest`` of them."""
    try:
        squeezed = base64.b64decode(packed, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRow(f"private_test_cases is neither JSON nor base64 ({error})") from None
    unpacker = zlib.decompressobj()
    try:
        raw = unpacker.decompress(squeezed, largest)
    except zlib.error as error:
        raise BadRow(f"private_test_cases is no zlib data ({error})") from None
    if unpacker.unconsumed_tail:
        raise BadRow(f"private_test_cases unpacks to more than {largest:,} bytes")
    if not unpacker.eof:
        raise BadRow("private_test_cases is torn: its zlib data ends early")
    return raw


def text_of_pickle(raw: bytes) -> str:
    """Return the one text that a pickle spells, looking at its opcodes only.

    Raises
    ------
    BadRow
        For any opcode that does more than hold a text, more than one text, or bytes after the end.
    """
    texts: list[str] = []
    end = -1
    try:
        for opcode, argument, position in pickletools.genops(raw):
            if opcode.name in _TEXT:
                texts.append(str(argument))
            elif opcode.name not in _AROUND:
                raise BadRow(
                    f"private_test_cases holds a pickle with {opcode.name}, which is not text: refused"
                )
            end = position or 0
    except (ValueError, UnicodeError, OverflowError) as error:
        if isinstance(error, BadRow):
            raise
        raise BadRow(f"private_test_cases holds no pickle ({error})") from None
    if len(texts) != 1 or end != len(raw) - 1:
        raise BadRow("private_test_cases holds a pickle of more than one text: refused")
    return texts[0]


def check_cases(found: Any) -> list[dict[str, str]]:
    """Return a list of cases, each with text ``input``, ``output`` and a known ``testtype``."""
    if not isinstance(found, list):
        raise BadRow(f"test cases are {shorten(found)}; they must be a list")
    for case in found:
        known = isinstance(case, dict) and all(isinstance(case.get(k), str) for k in ("input", "output"))
        if not known or case.get("testtype") not in ("stdin", "functional"):
            raise BadRow(
                f"a test case is {shorten(case)}; it must have input, output and testtype stdin or functional"
            )
    return [{key: case[key] for key in ("input", "output", "testtype")} for case in found]


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRow(f"test cases are no JSON ({error})") from None
