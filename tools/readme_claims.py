"""Record how the claims fared in a study, and write the README's table of them from that record.

Usage::

    python tools/readme_claims.py --study small     # records/claims.json and README.md from a study
    python tools/readme_claims.py                   # README.md from the record alone
    python tools/readme_claims.py --check           # exit status 1 where README.md and the record disagree
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from infra_lib.checksums import check_record, damaged_others, list_anew
from infra_lib.files import read_sealed, write_json, write_text
from infra_lib.layout import project_root, stage_folder
from infra_lib.paper import load_paper
from infra_lib.reading import load_table
from infra_lib.tables import VERDICTS

BEGIN, END = "<!-- claims: written by tools/readme_claims.py -->", "<!-- /claims -->"
KEPT = ["claim", "test", "says", "direction", "mean", "low", "high", "unit", "digits", "runs", "n", "verdict"]


def record_of(root: Path, study: str) -> dict[str, Any]:
    """Return what is recorded of a study's claims: where it ran, and one entry per test."""
    folder = stage_folder(study, "06_summary", root)
    provenance = read_sealed(folder / "provenance.json")
    claims = load_table(folder / "data" / "claims.parquet")[KEPT].astype(object)
    return {
        "study": study,
        "commit": provenance["environment"]["commit"],
        "device": provenance["environment"]["device"],
        "date": provenance["started"][:10],
        "confidence": provenance["effective"]["confidence"],
        "tests": claims.where(claims.notna(), None).to_dict("records"),
    }


def table(record: dict[str, Any]) -> str:
    """Return the README's table: per claim what the paper says, the verdicts, and the clearest effect."""
    lines = ["| claim of the paper | verdicts here | the clearest effect |", "|---|---|---|"]
    for claim in load_paper()["claims"]:
        tests = [test for test in record["tests"] if test["claim"] == claim["id"]]
        found = [(sum(t["verdict"] == v for t in tests), v) for v in VERDICTS]
        verdicts = ", ".join(f"{count} {verdict}" for count, verdict in found if count)
        lines.append(f"| {claim['claim']} | {verdicts} | {_clearest(tests)} |")
    where = (
        f"study `{record['study']}`, {record['date']}, {record['device']}, commit `{record['commit'][:12]}`"
    )
    sure = f"{record['confidence']:.0%} intervals over runs and problems or examples"
    return "\n".join(
        [*lines, "", f"{where}; {sure}. The book has every effect, the rule, and what would change it."]
    )


def _clearest(tests: list[dict[str, Any]]) -> str:
    """Return the measured effect whose interval is shortest beside its size, in words."""
    measured = [test for test in tests if test["mean"] is not None and test["verdict"] != "not measured"]
    if not measured:
        return "not available"
    best = max(measured, key=lambda t: abs(t["mean"]) / max(t["high"] - t["low"], 1e-12))
    shown = [f"{best[key]:+.{best['digits']}f}".replace("-", "−") for key in ("mean", "low", "high")]
    return f"{best['says']}: {shown[0]} [{shown[1]}, {shown[2]}] {best['unit']}"


def with_block(readme: str, text: str) -> str:
    """Return the README with the text between the marks replaced."""
    before, rest = readme.split(BEGIN, 1)
    return f"{before}{BEGIN}\n{text}\n{END}{rest.split(END, 1)[1]}"


def write_record(root: Path, record: dict[str, Any]) -> None:
    """Write ``records/claims.json`` and its checksum; every other record must be as it was recorded."""
    folder = root / "records"
    if damaged := damaged_others(folder, "claims.json"):
        sys.exit(f"records/{damaged[0]} is not the file that was recorded; restore it first")
    write_json(folder / "claims.json", record)
    list_anew(folder, "claims.json")


def main() -> int:
    """Write or check."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", help="take the claims from this study's results")
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    options = parser.parse_args()
    root = project_root()
    if options.study:
        write_record(root, record_of(root, options.study))
    path = root / "records" / "claims.json"
    if not path.is_file():
        print("records/claims.json is not there: --study NAME writes it", file=sys.stderr)
        return 1
    check_record(root, path)
    readme = (root / "README.md").read_text(encoding="utf-8")
    written = with_block(readme, table(json.loads(path.read_text(encoding="utf-8"))))
    if options.check:
        return int(written != readme)
    write_text(root / "README.md", written)
    return 0


if __name__ == "__main__":
    sys.exit(main())
