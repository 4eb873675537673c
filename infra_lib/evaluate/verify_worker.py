"""The process in which math-verify runs: one JSON line in, one JSON line out, until the input ends.

Run as a script by :mod:`infra_lib.evaluate.equivalence`, which ends it when an answer takes too long.
"""

import json
import logging
import resource
import sys

MEMORY_MB = 4096
CPU_SECONDS = 60
"""For one pair: the end of a process whose parent died while it computed."""


def main() -> None:
    """Answer pairs of texts with whether math-verify finds them equal."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_MB * 2**20, MEMORY_MB * 2**20))
    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)
    # What the libraries print must not get between the answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        wanted, found = json.loads(line)
        used = resource.getrusage(resource.RUSAGE_SELF)
        soft = int(used.ru_utime + used.ru_stime) + CPU_SECONDS
        resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))
        try:
            # Its own timeouts are signals; the parent process keeps the clock.
            gold, answer = (parse(f"${text}$", parsing_timeout=None) for text in (wanted, found))
            equal = bool(verify(gold, answer, timeout_seconds=None))
        except Exception:
            equal = False
        answers.write(json.dumps(equal) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
