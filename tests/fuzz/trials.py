"""How inputs are tried: the same ones in every run, and many more with ``INFRA_FUZZ=deep``.

Each test reports how many inputs it tried as property ``inputs``, for the reliability page.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

DEEP = 40 if os.environ.get("INFRA_FUZZ") == "deep" else 1
"""How many times as many inputs a long run tries; it draws new ones each time."""

Check = Callable[[Any], None]


class Trials:
    """Runs a check on many inputs and keeps count."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._properties, self.tried = request.node.user_properties, 0

    def search(self, strategy: st.SearchStrategy, check: Check, count: int) -> None:
        """Try inputs that Hypothesis draws; a failure is shrunk to a small one and shown."""

        @settings(
            max_examples=count * DEEP,
            deadline=None,
            derandomize=DEEP == 1,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(strategy)
        def trial(value: Any) -> None:
            self.tried += 1
            check(value)

        trial()
        self._report()

    def each(self, values: Iterable[Any], check: Check) -> None:
        """Try inputs from a list."""
        for value in values:
            self.tried += 1
            check(value)
        self._report()

    def _report(self) -> None:
        self._properties[:] = [entry for entry in self._properties if entry[0] != "inputs"]
        self._properties.append(("inputs", self.tried))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -(10**30), 2**63])
    | st.floats()
    | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)
"""Values of JSON, NaN and infinity included."""


@st.composite
def damaged(draw, content: bytes) -> bytes:
    """Draw a damaged copy of a file's content: cut, with bytes changed, put in or taken out."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        kind = draw(st.sampled_from(["cut", "change", "insert", "remove"]))
        if kind == "cut":
            del data[at:]
        elif kind == "change" and data:
            data[at] = draw(st.integers(0, 255))
        elif kind == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=12))
        else:
            del data[at : at + draw(st.integers(1, 40))]
    return bytes(data)
