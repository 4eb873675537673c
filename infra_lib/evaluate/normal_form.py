r"""One way of writing an answer of the MATH benchmark, so that equal text means equal answers.

The rules are those that the benchmark is published with, in our own words: what says the same to a
reader becomes the same text. Whatever is left unequal goes to math-verify, which compares values.
"""

from __future__ import annotations

import re

# Spacing and sizing commands, degree signs, currency and per cent say nothing about the value.
_NOTHING = re.compile(
    r"\\(?:left|right|!|,|;|:|quad|qquad|displaystyle|big|Big|bigl|bigr)(?![A-Za-z])"
    r"|\^\{?\\circ\}?|\\\$|\$|\\%|%|\s+"
)
_FRACTION = re.compile(r"\\(?:d|t|c)frac(?![A-Za-z])")
_WORDS = re.compile(r"\\(?:text|mbox|textbf|mathrm|textrm)\{([^{}]*)\}")
_UNIT = re.compile(
    r"(?<=[\d})])\\(?:text|mbox|mathrm|textrm)\{\s*(?:square )?"
    r"(?:cm|m|km|mm|in|ft|inches|inch|feet|units?|degrees?|dollars|cents|hours?|minutes|seconds|mph|miles|"
    r"pounds|grams|kg|g|meters|centimeters)\.?\s*\}(?:\^\{?[23]\}?)?"
)
_SHORT_FRACTION = re.compile(r"\\frac(\d)(\d)(?!\d)")
_HALF_BRACED = re.compile(r"\\frac(\d)(\{)")
_SHORT_ROOT = re.compile(r"\\sqrt(\w)")
_SLASH = re.compile(r"(-?)(\d+)/(\d+)")
_THOUSANDS = re.compile(r"-?\d{1,3}(?:(?:,|\{,\})\d{3})+(?:\.\d+)?")


def normal_form(answer: str) -> str:
    r"""Return an answer in its normal form.

    >>> normal_form("\\dfrac12") == normal_form("\\frac{1}{2}") == normal_form("1/2")
    True
    """
    text = _UNIT.sub("", answer.strip().strip("$").removesuffix("."))
    text = _FRACTION.sub(r"\\frac", _WORDS.sub(r"\1", text))
    text = _NOTHING.sub("", text)
    if _THOUSANDS.fullmatch(text):
        text = text.replace("{,}", "").replace(",", "")
    text = _SHORT_FRACTION.sub(r"\\frac{\1}{\2}", text)
    text = _HALF_BRACED.sub(r"\\frac{\1}\2", text)
    text = _SHORT_ROOT.sub(r"\\sqrt{\1}", text)
    if match := _SLASH.fullmatch(text):
        text = f"{match[1]}\\frac{{{match[2]}}}{{{match[3]}}}"
    text = re.sub(r"(?<!\d)\.(?=\d)", "0.", text)
    # "x = 5" answers "what is x"; a longer left side is part of the answer.
    return re.sub(r"^[A-Za-z]=", "", text)
