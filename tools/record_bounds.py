"""Run the validation of the study `full` again with one thing changed at a time, and record what comes.

    python tools/record_bounds.py [PROJECT]

Writes ``records/bounds`` and the list of checksums of ``records/``. It needs about five minutes on
two cores; interrupt it, start it again, it goes on. The variations: :mod:`infra_lib.validation.bounds`.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from infra_lib.checksums import list_anew
from infra_lib.files import replacing, write_sealed
from infra_lib.provenance import environment
from infra_lib.study import load_study
from infra_lib.validation.bounds import FEWER, RECORD, measure_bounds


def main(root: Path) -> None:
    """Measure every variation and keep the table with where it comes from."""
    started = time.perf_counter()
    study = load_study(root / "notebooks" / "studies", "full")
    found = measure_bounds(study, root, root / "_build" / "bounds")
    path = root / RECORD
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        found.to_parquet(temporary, index=False)
    seconds = round(time.perf_counter() - started, 1)
    about = {"study": study.study, "fewer": dict(FEWER), "environment": environment(), "seconds": seconds}
    write_sealed(path.with_name("provenance.json"), about)
    list_anew(root / "records", path.parent.name)
    print(found.to_string())


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve())
