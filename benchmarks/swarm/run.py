"""A swarm on a bed of its own: hosts with links, several systems side by side, faults.

    python -m benchmarks.swarm.run DESCRIPTION [--systems hawker,http,libtorrent,aria2]
                                   [--runs 3] [--out DIR]

DESCRIPTION is a file, or the name of one in `benchmarks/swarm/descriptions`. Every host is a
network namespace with rates of its own (htb), a delay and a loss where described; all receivers
begin at once, and every output is hashed. Ratios are to the fluid bound max(F/U_seed, F/d_min,
N·F/(U_seed + ΣU_i)), its rates being what one curl gets over one such link in the same run; where
there are zones, content has to get through their links, too.

`--out` takes every figure as `figures.json`, and a drawing and the logs of each round; it must be
new. Needs Linux, root, `ip`, `tc`, `nft`, `curl`, and what the chosen systems are. Two runs at a
time would measure each other.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import signal
import sys
import tempfile
from pathlib import Path

import msgspec

from benchmarks.figures import machine
from benchmarks.processes import make_file
from benchmarks.swarm import tools
from benchmarks.swarm.description import Description, Scenario, read
from benchmarks.swarm.drawing import draw
from benchmarks.swarm.janitor import remove_orphans
from benchmarks.swarm.play import CALM, Content, Round, play
from benchmarks.swarm.reference import Kind as LinkKind
from benchmarks.swarm.reference import bound_of, measure
from benchmarks.swarm.report import (
    print_faults,
    print_hosts,
    print_matrix,
    print_medians,
    print_rounds,
    print_told,
)
from benchmarks.swarm.systems.aria2 import Aria2
from benchmarks.swarm.systems.base import System
from benchmarks.swarm.systems.hawker import Hawker
from benchmarks.swarm.systems.libtorrent import Libtorrent
from benchmarks.swarm.systems.plain import Plain

KINDS: dict[str, type[System]] = {k.name: k for k in (Hawker, Plain, Libtorrent, Aria2)}
DESCRIPTIONS = Path(__file__).with_name("descriptions")
# Memory, where there is some: a bed writes the content once for each host.
MEMORY = Path("/dev/shm")
INTERRUPTED = 130


def scenarios_for(description: Description, kind: type[System]) -> list[Scenario]:
    """Calm, and the scenarios whose faults mean something to the system."""
    able = [s for s in description.scenarios if all(f.do in kind.survives for f in s.faults)]
    return [CALM, *able]


def empty(directory: Path) -> Path:
    """The directory, new."""
    directory.mkdir()
    return directory


def make_content(directory: Path, size: int) -> Content:
    """Random bytes in a directory of their own."""
    path = empty(directory / f"content-{size}") / "content.bin"
    return Content(path, size, make_file(path, size))


async def measure_all(
    description: Description,
    kinds: list[type[System]],
    runs: int,
    directory: Path,
    out: Path | None,
) -> tuple[dict[LinkKind, float], list[Round]]:
    """The links' goodput, and all rounds, in the order in which they were played; logs of each go
    to a directory of its own below `out`."""
    sizes = {k: description.http_bytes if k is Plain else description.bytes for k in kinds}
    contents = {size: make_content(directory, size) for size in {*sizes.values()}}
    largest = contents[max(contents)]
    goodput = await measure(description, largest, empty(directory / "reference"))
    for link, rate in goodput.items():
        print(f"one curl over {link.words}: {rate * 8 / 1e6:.2f} Mbit/s", flush=True)
    rounds: list[Round] = []
    for _ in range(runs):
        for kind in kinds:
            for scenario in scenarios_for(description, kind):
                number = len(rounds)
                place = empty(directory / f"round-{number}")
                content = contents[sizes[kind]]
                logs = None if out is None else out / round_name(number, kind.name, scenario.name)
                found = await play(description, kind, content, scenario, place, number, logs)
                rounds.append(found)
                last = f"{found.ordered[-1]:.2f} s" if found.ordered else "FAILED"
                print(f"{kind.name}, {scenario.name}: {last}", *found.problems, flush=True)
    return goodput, rounds


def write_out(
    out: Path,
    rounds: list[Round],
    figures: dict[str, object],
    description: Description,
    bounds: dict[int, float],
) -> None:
    """Figures, and a drawing a round, beside the logs."""
    (out / "figures.json").write_bytes(msgspec.json.encode(figures))
    for number, found in enumerate(rounds):
        name = round_name(number, found.system, found.scenario)
        (out / f"{name}.svg").write_text(draw(found, description.links(), bounds[found.size]))


def round_name(number: int, system: str, scenario: str) -> str:
    return f"{number:02}-{system}-{scenario.replace(' ', '-')}"


def chosen(text: str) -> list[type[System]]:
    unknown = [name for name in text.split(",") if name not in KINDS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no system {unknown[0]!r}; there are {', '.join(KINDS)}")
    return [KINDS[name] for name in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("description", help="a TOML file, or the name of one that comes with it")
    parser.add_argument("--systems", type=chosen, default=",".join(KINDS), help="joined by commas")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path, help="directory for figures and drawings")
    options = parser.parse_args()
    if options.out and options.out.exists():
        parser.error(f"{options.out} is there already")
    path = Path(options.description)
    description = read(path if path.suffix else DESCRIPTIONS / f"{path}.toml")
    kinds: list[type[System]] = options.systems
    tools.check([kind.name for kind in kinds])
    remove_orphans()
    # Ends like Ctrl-C does: nothing is left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    print(f"{path.stem}: {machine()}")
    for kind in kinds:
        print(kind.about())
    base = MEMORY if MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="hawker-bed-", dir=base) as name:
        measuring = measure_all(description, kinds, options.runs, Path(name), options.out)
        try:
            goodput, rounds = asyncio.run(measuring)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
    bounds = {r.size: bound_of(description, r.size, goodput) for r in rounds}
    print("fluid bound: " + ", ".join(f"{size} bytes {s:.2f} s" for size, s in bounds.items()))
    for kind in kinds:
        first = next(r for r in rounds if r.system == kind.name)
        print_hosts(first, description, bounds[first.size])
        print_matrix(first)
    print()
    print_rounds(rounds, bounds, description.links())
    print_told(rounds)
    print()
    print_medians(rounds, bounds)
    if description.scenarios:
        print()
        print_faults(rounds)
    if options.out:
        figures = {
            "machine": machine(),
            "description": msgspec.to_builtins(description),
            "systems": {kind.name: kind.about() for kind in kinds},
            "goodput": [{**kind._asdict(), "bytes_per_second": r} for kind, r in goodput.items()],
            "bounds": {str(size): seconds for size, seconds in bounds.items()},
            "rounds": [dataclasses.asdict(found) for found in rounds],
        }
        write_out(options.out, rounds, figures, description, bounds)
    if any(found.problems for found in rounds):
        sys.exit("a round failed; see above")


if __name__ == "__main__":
    main()
