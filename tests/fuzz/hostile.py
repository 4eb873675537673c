"""Texts that a model or a data set could hold and that something on the way could stumble over or obey."""

from __future__ import annotations

from hypothesis import strategies as st

MARKUP = [
    "<script>window.__pwned = 1</script>",
    "<img src=x onerror='window.__pwned=2'>",
    "</td></tr></table><svg onload=window.__pwned=3>",
    "</div></div><iframe srcdoc='<script>parent.__pwned=4</script>'></iframe>",
    "<style>body{display:none}</style>",
    "<!-- <b>hidden</b> -->",
    "<!--",
    "]]> <![CDATA[ x",
    "<meta http-equiv=refresh content='0;url=http://evil.invalid/'>",
    "<base href='http://evil.invalid/'>",
    "<form action=http://evil.invalid/><input autofocus onfocus=window.__pwned=5>",
    "&lt;b&gt; &amp; &#60;i&#62; &nbsp;",
    "\"><script>window.__pwned=6</script> ' onmouseover='window.__pwned=7",
]
MARKDOWN = [
    "[click](javascript:window.__pwned=8) ![x](http://evil.invalid/x.png)",
    "<http://evil.invalid/> https://evil.invalid/",
    "[ref]: http://evil.invalid/ 'x'\n\n[ref]",
    "# heading\n\n## another\n\n- a\n- b\n\n1. one\n\n> quote",
    "heading\n=======\n\nother\n-------",
    "| a | b |\n|---|---|\n| 1 | 2 |",
    "`code` ``co`de`` ~~x~~ **bold** __bold__ _it_ *it*",
    "    indented code\n\n\tand a tab",
    "```\nfence\n```\n~~~\nother\n~~~",
    "text[^1]\n\n[^1]: a footnote\n\n(target)=\n# titled",
    "***\n---\n+++ {}\n% comment\n",
    "Term\n: Definition",
    "trailing backslash \\\nhard  \nbreaks",
    "www.evil.invalid a@evil.invalid",
    "{#id .class onclick=window.__pwned=9} text{.cls}",
]
DIRECTIVES = [
    "```{raw} html\n<script>window.__pwned=10</script>\n```",
    "```{include} /etc/passwd\n```",
    "```{eval-rst}\n.. raw:: html\n\n   <script>window.__pwned=11</script>\n```",
    ":::{raw} html\n<script>window.__pwned=12</script>\n:::",
    ":::{admonition} Title\n:class: danger\ntext\n:::",
    ":::note",
    "{raw:html}`<script>window.__pwned=13</script>` {doc}`claims` {ref}`x` {cite:p}`kou2025infra`",
    "{download}`x </etc/passwd>` {eval}`1+1` {math}`x`",
    "```{code-cell} python\nprint(1)\n```",
    "{{ config }} {% raw %} {{ cycler.__init__.__globals__ }}",
    "---\nsubstitutions:\n  x: y\n---\n",
]
TEX = [
    "$x^2$ $$y$$ \\(z\\) \\[w\\]",
    "\\href{javascript:window.__pwned=14}{x} $\\href{javascript:window.__pwned=15}{x}$",
    "$\\input{/etc/passwd}$ \\write18{id}",
    "\\begin{align}a&=b\\end{align}",
    "$\\unclosed{ and 5$ or 6$",
]
TERMINAL = [
    "\x1b[31mred\x1b[0m \x1b]8;;http://evil.invalid\x07link\x1b]8;;\x07 \x1b[2J\x1b[H",
    "\x00 nul \x07 bell \x08 back \x7f del \x0b \x0c",
    "\x80\x85\x9b31m\x9f",
    "over\rwritten\r\nand a line",
]
UNICODE = [
    "\u202egnp.exe\u202c \u2066isolate\u2069 \u200erlm\u200f \u061c",
    "zero\u200bwidth\u2060joined\ufeffhere soft\u00adhyphen",
    "tag\U000e0001\U000e0068\U000e0069\U000e007f smuggled \ufe0f\U000e0100",
    "\u2028line\u2029paragraph\u0085next",
    "אבג (abc) 123 — مرحبا بالعالم",
    "👩\u200d👩\u200d👧\u200d👦 👍🏽 🇫🇷 ☺\ufe0f",
    "Z̷̢̛͔̳a̶̙͠l̵̡̈́g̸̭͝o̴̧͝ é e\u0301 ﷽",
    "\u3164\u115f\u1160\uffa0 filler \u2800 \u3000 \u00a0",
    "नमस्ते क्\u200dष می\u200cخواهم",
    "\uffff\ufffe\ue000\U0010ffff",
]
LONG = ["x" * 3000, "<" * 2000, "a b " * 500, "\n" * 200, "." * 2000, "٣" * 500, "\u0301" * 300]
EMPTY = ["", " ", "\n", "\t", "  \n  ", "0", "-"]
TEXTS = MARKUP + MARKDOWN + DIRECTIVES + TEX + TERMINAL + UNICODE + LONG + EMPTY

ANY_TEXT = st.text(max_size=60) | st.lists(
    st.sampled_from([*TEXTS, "a", " ", "\n", "|", "`", "\u202e", "\u200d", "é", "字", "🙂"]), max_size=5
).map("".join)
"""Text of any characters but halves of surrogate pairs, and hostile pieces in any order."""
