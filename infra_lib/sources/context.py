"""What a parser is told beside the row: whose row it is, and the caller's options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from infra_lib.sources.prompts import LIVECODEBENCH_STARTER, PROMPTS, fill


@dataclass(frozen=True)
class Context:
    """Name and split of the data set, the domains that are wanted, the template, and options.

    Attributes
    ----------
    index
        The row's position in its split, from 0; the same from the hub and from a folder. It is the id
        of rows that have none of their own.
    """

    name: str
    split: str
    domains: tuple[str, ...] = ("math", "code")
    template: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    index: int = 0

    def prompt(self, problem: str, *, tests: str = "", starter: str = "") -> str:
        """Return the benchmark's prompt for a problem."""
        template = self.template or (LIVECODEBENCH_STARTER if starter else PROMPTS[self.name].template)
        return fill(template, problem=problem, tests=tests, starter=starter)

    @property
    def system(self) -> str | None:
        """The benchmark's system turn; none with a template of the caller's own."""
        return None if self.template is not None else PROMPTS[self.name].system
