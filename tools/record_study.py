"""Keep a finished long study as a record: ``python tools/record_study.py full``.

Copies the tables and provenance that :data:`infra_lib.validation.record.KEPT` names from
``_build/studies`` to ``records``, and lists them in ``records/SHA256SUMS``.
"""

from __future__ import annotations

import sys

from infra_lib.errors import InfraError
from infra_lib.layout import project_root
from infra_lib.validation.record import STUDY, write_record


def main() -> int:
    """Record the study that is named, ``full`` by default; return the exit status."""
    try:
        print(f"recorded in {write_record(project_root(), *(sys.argv[1:] or [STUDY]))}")
    except InfraError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
