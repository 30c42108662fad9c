"""One hop: a child daemon takes 1 GiB from its parent, against `curl -o` from nginx.

    python -m benchmarks.hop.run [--over NAME]... [--all] [--floor] [--size 1GiB]
        [--http3-size 64MiB] [--pairs 7] [--json]

Targets 1, 2 and 12 of the design, and the same over other transports: http1 (the default), tls
(HTTP/1.1), http2, http2-tls, http3. The parent (a seed) is complete and its file in the page cache;
the child is warm. Hawker is timed from sending the request to reading the `done` event: every piece
verified and valid in the child's store. curl is timed by its own `time_total`, which leaves out its
start; it takes the same file over the same protocol, but for http3, which neither this curl nor
this nginx speaks. After each round the child's copy, or curl's file, is removed, so that each round
writes a fresh file on the same filesystem. Rounds are interleaved, and each pair begins with the
other one. Ratios are taken within a pair. The CLI round is `hawker get URL -O FILE -e SOCKET`,
process start and delivery to FILE included. `--floor` adds rounds of bare threads, see floor.py.

CPU is user + system time of the parent's and the child's processes (/proc/PID/stat, all threads)
over the round; the scheduler runs and is not counted. Lag is the p99 of all rounds' event-loop lag,
from the difference of each daemon's histogram before and after a round.

Needs Linux, nginx and curl (Debian: apt install nginx-light curl).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import tempfile
from pathlib import Path

from benchmarks.figures import size_of
from benchmarks.hop.measure import OVER, Content, Series, measure
from benchmarks.hop.report import report
from benchmarks.nginx import nginx
from benchmarks.processes import issue, make_file, need


def run(directory: Path, options: argparse.Namespace) -> tuple[list[Series], str]:
    """Everything that was measured, and how nginx was configured."""
    names = list(OVER) if options.all else options.over or ["http1"]
    www = directory / "www"
    www.mkdir()
    sizes = {name: options.http3_size if name == "http3" else options.size for name in names}
    made = {
        size: Content(f"file-{size}", size, make_file(www / f"file-{size}", size))
        for size in set(sizes.values())
    }
    contents = {name: made[size] for name, size in sizes.items()}
    secure = any(OVER[name].secure for name in names)
    certificate = asyncio.run(issue(directory)) if secure else None
    with nginx(directory, certificate) as origin:
        found = asyncio.run(
            measure(
                directory,
                origin,
                certificate,
                contents,
                pairs=options.pairs,
                floor=options.floor,
            )
        )
        return found, origin.configuration


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--over", action="append", choices=OVER, help="may be repeated")
    parser.add_argument("--all", action="store_true", help="over every transport")
    parser.add_argument("--floor", action="store_true", help="measure bare threads, too")
    parser.add_argument("--size", type=size_of, default=2**30, help="such as 1GiB")
    parser.add_argument("--http3-size", type=size_of, default=64 * 2**20, help="HTTP/3 is slow")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="print a JSON line after the table")
    options = parser.parse_args()
    # Ends like Ctrl-C does: nothing is left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    need("nginx", "curl")
    with tempfile.TemporaryDirectory(prefix="hawker-hop-") as name:
        found, configuration = run(Path(name), options)
        figures = report(found, configuration)
    if options.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
