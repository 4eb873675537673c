"""YAML as plain data: what study files and ``-p name=value`` are read with.

PyYAML's safe loader makes no objects, and still takes more than a flat file of parameters
needs: of two equal keys it keeps the last without a word, aliases let a few lines stand for
gigabytes ("billion laughs"), and a value that its tag does not fit ends in whatever Python
raises. This loader refuses all three by name and line.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml

from infra_lib.errors import shown


class _PlainLoader(yaml.SafeLoader):
    """A safe loader without aliases and without repeated keys."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.constructor.ConstructorError(
                None, None, f"alias *{event.anchor}: values are written out here", event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable):
                if key in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"key {shown(key)} occurs twice", key_node.start_mark
                    )
                seen.add(key)
        return super().construct_mapping(node, deep=deep)


def load(text: str) -> Any:
    """Return the value of a YAML document made of mappings, lists, text, numbers, booleans and dates.

    Raises
    ------
    ValueError
        Saying what is wrong, with the line where the reader knows it.
    """
    try:
        return _PlainLoader(text).get_single_data()
    except yaml.YAMLError as error:
        raise ValueError(_one_line(error)) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        # What constructors raise for a value that its tag or form does not fit: 2024-99-99, !!int "".
        raise ValueError(f"a value does not fit its type ({error})") from None


def _one_line(error: yaml.YAMLError) -> str:
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    where = f"line {mark.line + 1}: " if mark else ""
    return where + (problem or " ".join(str(error).split()))
