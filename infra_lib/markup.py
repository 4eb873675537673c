"""Text from models and data sets as HTML: shown as it is, obeyed by nothing.

A page is read by MyST (directives, roles, TeX, substitutions), by Markdown, by HTML and by
Unicode's rules of direction. :func:`escape` leaves none of them a character to act on, and
shows what would otherwise be invisible: terminal codes, control characters, overrides of
direction, characters without width. :func:`active_markup` looks the other way round for
anything in finished HTML that would run or load something.
"""

from __future__ import annotations

import html
import re
import unicodedata
from html.parser import HTMLParser

_UNSAFE = re.compile(r"[^\w ,]|_|(?<![^\W_,]) | (?![^\W_])")
"""All but letters, digits, commas, and a space between two of these."""

_NAMED = re.compile(r"[^\n\t -~]")
_INVISIBLE = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0" + "".join(map(chr, range(0xE0100, 0xE01F0)))
)
"""Characters that Unicode counts among letters and marks and that are drawn as nothing."""

_JOINERS = "\u200c\u200d"
"""Part of how emoji, Persian and many Indic scripts are written, and of nothing in ASCII."""


def visible(text: object) -> str:
    r"""Return text with invisible and ordering characters replaced by a name that can be seen.

    Control characters become their pictures (``␛``), others their code point (``⟨U+202E⟩``).
    Line ends become ``\n``; joiners stay within scripts that are written with them.
    """
    plain = str(text).replace("\r\n", "\n").replace("\r", "\n")
    return _NAMED.sub(lambda match: _seen(match, plain), plain)


def _seen(match: re.Match[str], text: str) -> str:
    character = match.group()
    code = ord(character)
    if code < 0x20 or code == 0x7F:
        return chr(0x2421 if code == 0x7F else 0x2400 + code)
    category = unicodedata.category(character)
    if category in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") or character in _INVISIBLE:
        around = text[max(0, match.start() - 1) : match.start()], text[match.end() : match.end() + 1]
        if character in _JOINERS and all(side > "\x7f" for side in around):
            return character
        return f"⟨U+{code:04X}⟩"
    return character


def escape(text: object) -> str:
    """Return text as HTML that no layer between here and the reader can take for markup.

    What could not be seen is named (:func:`visible`); every character but letters, digits and commas is
    written as a numeric entity; line ends become ``<br>``, since a blank line would end the HTML block.
    """
    return "<br>".join(_entities(line) for line in visible(text).split("\n"))


def attribute(text: object) -> str:
    """Return text as the value of an HTML attribute, to stand between double quotes."""
    return "&#10;".join(_entities(line) for line in visible(text).split("\n"))


def _entities(line: str) -> str:
    return _UNSAFE.sub(lambda match: f"&#{ord(match.group())};", line)


# --- Finished HTML -----------------------------------------------------------------------

ACTIVE_TAGS = frozenset({"script", "iframe", "frame", "object", "embed", "applet", "base", "meta", "link"})
CONTROLS = frozenset({"form", "input", "button", "textarea", "select"})
LOADING = frozenset({"src", "srcset", "href", "xlink:href", "action", "formaction", "data"})
LOADING |= {"poster", "background", "ping", "cite", "srcdoc"}
_HELD = ("data:image/png;", "data:image/jpeg;", "data:image/gif;")
"""Beginnings of pictures that stand in the page itself."""


class _Watcher(HTMLParser):
    """Notes the first piece of markup that would run or load something."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ACTIVE_TAGS | CONTROLS:
            self._note(f"<{tag}>")
        for name, value in attrs:
            # Browsers drop white space and control characters within an address's scheme.
            address = re.sub(r"[\x00-\x20]", "", html.unescape(value or ""))
            if name.startswith("on"):
                self._note(f"{name}= on <{tag}>")
            elif name in LOADING and address and not _allowed(tag, name, address):
                self._note(f"{name}={address[:60]!r} on <{tag}>")
            elif name == "style" and re.search(r"url\(|expression|@import", address, re.IGNORECASE):
                self._note(f"style with an address on <{tag}>")

    handle_startendtag = handle_starttag

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "style" and re.search(r"url\(|@import", data, re.IGNORECASE):
            self._note("a style sheet with an address")

    def _note(self, what: str) -> None:
        self.found = self.found or what


def _allowed(tag: str, name: str, address: str) -> bool:
    if tag == "a" and name == "href" and re.match(r"https?://", address):
        return True
    # An address without a scheme and without a host lies in the book.
    return address.startswith(_HELD) or not re.match(r"[^/?#]*:|[\\/]{2}", address)


def active_markup(page: str) -> str | None:
    """Return the first thing in a piece of HTML that would run or load something, or None.

    Scripts, event handlers, frames, forms, and addresses other than links to pages, places on this
    page, and pictures that the page itself holds.
    """
    watcher = _Watcher()
    watcher.feed(page)
    watcher.close()
    return watcher.found
