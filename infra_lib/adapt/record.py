"""A recorded run of the book's page *Adapt to your model*: made by its own commands, shown at build time.

``tools/record_adapt.py`` takes the shell blocks out of ``book/adapt.md``, runs them in order, and keeps what
they printed and the tables that they made in ``records/smollm2``. The page's output comes from there.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra_lib import tables
from infra_lib.adapt import show
from infra_lib.adapt.data import TARGET, TRAIN
from infra_lib.adapt.notebook import group_figure
from infra_lib.adapt.results import Results, agreement, finer_groups, load_results
from infra_lib.checksums import check_record
from infra_lib.files import copied, read_sealed
from infra_lib.markup import escape
from infra_lib.style import name_of

RECORD = Path("records") / "smollm2"
TRANSCRIPT = "transcript.json"
"""What each step's commands printed, and how long they took."""

ABSENT = "not available: no run has been recorded"


@dataclass(frozen=True)
class Block:
    """The commands of one numbered step."""

    step: int
    commands: str


def shell_blocks(page: str) -> list[Block]:
    """Return the shell blocks below the numbered headings of a page (``## 3. …``), at most one each."""
    parts = re.split(r"^## (\d+)\. .*$", page, flags=re.MULTILINE)
    found = []
    for number, text in zip(parts[1::2], parts[2::2], strict=True):
        body = re.split(r"^## ", text, flags=re.MULTILINE)[0]
        if blocks := re.findall(r"^```bash\n(.*?)^```$", body, flags=re.MULTILINE | re.DOTALL):
            found.append(Block(int(number), blocks[0].strip()))
    return found


def read_record(root: Path) -> tuple[Results, dict[str, Any]] | None:
    """Return the recorded results and transcript, or None where none are recorded.

    Raises
    ------
    DataError
        For a record that is torn, changed or not listed.
    """
    folder = root / RECORD
    if not folder.is_dir():
        return None
    for path in sorted(folder.iterdir()):
        check_record(root, path)
    return load_results(folder, folder / TRAIN, folder / TARGET), read_sealed(folder / TRANSCRIPT)


def fragments(root: Path, results: Path) -> dict[str, str]:
    """Return the fragments of ``book/adapt.md`` by name; figures go to ``results/figures/adapt``."""
    blocks = shell_blocks((root / "book" / "adapt.md").read_text(encoding="utf-8"))
    names = ["badge", "lines", "read", "figures", "cards", "agreement", "provenance"]
    names += [f"step_{block.step}" for block in blocks]
    recorded = read_record(root)
    if recorded is None:
        return {f"adapt_{name}": ABSENT for name in names}
    found, transcript = recorded
    links = {
        "notebook": f"/results/{copied(root / 'notebooks' / 'adapt.py', results, 'data/adapt/adapt.py')}",
        "behind": copied(root / RECORD / "examples.parquet", results, "data/adapt/examples.parquet"),
    }
    figures = [
        group_figure(results / "figures" / "adapt", found, by, **links)
        for by in [("domain",), *finer_groups(found)]
    ]
    shown = {
        "badge": _badge(found, transcript),
        "lines": _lines(root / RECORD / TRAIN),
        "read": show.read_table(found),
        "figures": "\n\n".join(figure._repr_html_() for figure in figures),
        "cards": "\n".join(
            f'<p class="group-heading"><strong>on {escape(name_of(target))}</strong></p>\n\n'
            + show.example_cards(found, target, 1)
            for target in found.targets
        ),
        "agreement": show.agreement_table(agreement(found)),
        "provenance": show.provenance_table(found),
    }
    for block in blocks:
        shown[f"step_{block.step}"] = output(
            transcript["steps"].get(str(block.step), {}).get("output", ABSENT)
        )
    return {f"adapt_{name}": text for name, text in shown.items()}


def _badge(found: Results, transcript: dict[str, Any]) -> str:
    made = found.provenance["environment"]
    origin = f"commit {made['commit'][:12]}, {transcript['date']}"
    seconds = found.provenance["seconds"]
    targets = sum(found.provenance["target_examples"].values())
    return (
        f"{tables.badge('recorded', origin)} {escape(found.provenance['train_examples'])} training and "
        f"{escape(targets)} target examples under {escape(transcript['model'])}, three levels at once, in "
        f"**{seconds / 60:.1f} minutes** on {escape(made['device'])}, {escape(made['threads'])} threads."
    )


def output(text: str) -> str:
    """Return what a command printed as a block that nothing obeys."""
    frame = 'class="infra-output mathjax_ignore" tabindex="0" role="region" aria-label="Output"'
    return f"<div {frame}><pre>{escape(text.rstrip())}</pre></div>"


def _lines(path: Path) -> str:
    """Return the first example of each domain, as its line of the file has it, long values cut."""
    seen: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        kept = ("id", "domain", "difficulty", "prompt", "response")
        short = {name: _cut(entry[name]) for name in kept if entry.get(name) is not None}
        seen.setdefault(entry["domain"], json.dumps(short, ensure_ascii=False))
    return output("\n".join(seen.values()))


def _cut(value: Any, most: int = 60) -> Any:
    return value if not isinstance(value, str) or len(value) <= most else f"{value[:most]} …"
