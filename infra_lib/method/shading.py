"""An example's tokens shaded by their influence, in both readings, as HTML that a page can hold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from infra_lib.examples import Example
from infra_lib.frames import rows as each_row
from infra_lib.style import name_of
from infra_lib.tables import escape

EDGES = (1 / 16, 1 / 8, 1 / 4, 1 / 2)
"""Lower ends of the shades, as parts of the scale's end; what is smaller stays unshaded."""

READINGS = {"loss": "Loss-term reading", "position": "Position reading"}
END = "[end]"
"""What stands for the end token, which has no characters."""


def levels(values: np.ndarray, end: float) -> np.ndarray:
    """Return the shade of each value, −4 to 4: how many of :data:`EDGES` its size reaches, with its sign."""
    reached = np.searchsorted(np.array(EDGES) * end, np.abs(values), side="right")
    return (np.sign(values) * reached).astype(int)


def shaded_readings(frame: pd.DataFrame, example: Example, *, target: str, prompt_share: float) -> str:
    """Return an example with its response's tokens shaded by influence on a target, once per reading.

    Both readings share one scale: its end is the largest size that either reaches. Every token says its
    value when pointed at, and the legend gives the shades in numbers.

    Parameters
    ----------
    frame
        Columns text, loss, position, one row per response token, in order (as
        :func:`infra_lib.method.readings.readings_table` gives them, cut to one example and target).
    prompt_share
        What the prompt's positions carry in the position reading (they have no loss term).
    """
    end = float(frame[["loss", "position"]].abs().to_numpy().max())
    shares = {"loss": 0.0, "position": prompt_share}
    panels = [_panel(frame, reading, title, end, shares[reading]) for reading, title in READINGS.items()]
    return (
        '<div class="shaded mathjax_ignore">\n'
        f'<div class="example-prompt">{escape(example.prompt.strip())}</div>\n'
        f'<div class="shaded-panels">\n{chr(10).join(panels)}\n</div>\n'
        f"{legend(end, target, 'one scale for both readings. [end] is the end token')}\n</div>\n"
    )


def _panel(frame: pd.DataFrame, reading: str, title: str, end: float, share: float) -> str:
    values = frame[reading].to_numpy()
    tokens = shaded_tokens([row.text for row in each_row(frame)], values, end)
    own = float(values.sum())
    words = f"These {len(values)} tokens add up to {_number(own)}"
    if reading == "position":
        words += f", the prompt's positions to {_number(share)}: together {_number(own + share)}"
    return (
        f'<section class="example-card" aria-label="{title}"><div class="example-title">{title}</div>'
        f'<div class="example-response shaded-text">{tokens}</div>'
        f'<div class="table-note">{words}.</div></section>'
    )


def shaded_tokens(texts: Sequence[str], values: np.ndarray, end: float) -> str:
    """Return tokens as HTML, each shaded by its value on a scale that ends at ``end`` and ``-end``."""
    return "".join(
        _token(text, value, level)
        for text, value, level in zip(texts, values, levels(values, end), strict=True)
    )


def _token(text: str, value: float, level: int) -> str:
    kind = "" if level == 0 else f' class="{"up" if level > 0 else "down"}{abs(level)}"'
    return f'<span{kind} title="{_number(value)}">{escape(text or END)}</span>'


def legend(
    end: float, target: str, scale: str, *, units: str = "nats of the target per unit of the example's weight"
) -> str:
    """Return the shades in numbers and in words; ``scale`` says what shares them."""
    edges = [part * end for part in EDGES]
    swatches = [_swatch(f"down{k + 1}", f"≤ {_number(-edges[k])}") for k in reversed(range(len(EDGES)))]
    swatches.append(_swatch("", "near 0"))
    swatches += [_swatch(f"up{k + 1}", f"≥ {_number(edges[k])}") for k in range(len(EDGES))]
    words = (
        f"Influence of a token on {escape(name_of(target))}, in {escape(units)}. "
        f"Purple hinders, orange helps; {scale}."
    )
    return f'<div class="shaded-legend">{"".join(swatches)}</div>\n<p class="shaded-words">{words}</p>'


def _swatch(kind: str, words: str) -> str:
    return f'<span class="swatch {kind}">{words}</span>'


def _number(value: float) -> str:
    shown = f"{value:+,.0f}" if abs(value) >= 100 else f"{value:+.2g}"
    return shown.replace("-", "−")
