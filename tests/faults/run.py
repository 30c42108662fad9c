"""The fault run: real processes, faults drawn from a seed, invariants checked.

    python -m tests.faults.run --seed 7
    python -m tests.faults.run --seeds 1:200 --jobs 2

A failing seed prints what was violated, its plan, where the logs are, and how to play it again.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tests.faults.clients import Violation
from tests.faults.plan import draw
from tests.faults.play import Run


def run_seed(seed: int, *, keep: bool = False) -> str:
    """Play one seed; empty where every invariant held, else what was violated and where to look."""
    root = Path(tempfile.mkdtemp(prefix=f"hawker-faults-{seed}-"))
    plan = draw(seed)
    problem = ""
    try:
        Run(plan, root).play()
    except Violation as exc:
        problem = str(exc)
    except Exception:
        problem = traceback.format_exc()
    if problem:
        again = f"python -m tests.faults.run --seed {seed}"
        return f"{problem}\n  plan: {plan.lines()}\n  logs: {root}\n  again: {again}"
    if not keep:
        shutil.rmtree(root, ignore_errors=True)
    return ""


def main() -> int:
    """Exit code 0 where every seed passed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, help="play this one")
    parser.add_argument("--seeds", default="1:20", metavar="FIRST:LAST")
    parser.add_argument("--jobs", type=int, default=1, help="seeds at the same time")
    parser.add_argument("--keep", action="store_true", help="keep data and logs of good runs, too")
    options = parser.parse_args()
    first, _, last = options.seeds.partition(":")
    seeds = list(range(int(first), int(last or first) + 1))
    if options.seed is not None:
        seeds = [options.seed]
    failed: list[int] = []

    def timed(seed: int) -> tuple[int, str, float]:
        since = time.monotonic()
        return seed, run_seed(seed, keep=options.keep), time.monotonic() - since

    with ThreadPoolExecutor(options.jobs) as pool:
        for future in as_completed([pool.submit(timed, seed) for seed in seeds]):
            seed, problem, seconds = future.result()
            print(f"seed {seed} ({seconds:.1f} s): {problem or 'ok'}", flush=True)
            if problem:
                failed.append(seed)
    print(f"{len(seeds) - len(failed)} of {len(seeds)} seeds passed; failed: {sorted(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
