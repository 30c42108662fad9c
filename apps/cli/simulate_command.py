"""`hawker simulate`: a swarm of any size on a simulated network, decided by the real core."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import msgspec

from hawker.apps.cli.curve import chart
from hawker.apps.cli.options import Session, common_options, json_option, pass_session
from hawker.apps.cli.text import size as as_size
from hawker.apps.cli.text import table
from hawker.core.errors import Unavailable
from hawker.core.pieces import MIB, piece_length_for

if TYPE_CHECKING:
    from hawker.core.simulation.outcome import Outcome
    from hawker.core.simulation.scenario import Scenario

# Beyond this the exact simulation takes more than a few minutes.
EXACT_PEERS = 10_000
_UNITS = {"": 1, "K": 1024, "M": MIB, "G": 1024 * MIB, "T": 1024 * 1024 * MIB}


def byte_size(text: str) -> int:
    """Bytes, or a number with a binary unit: 4096, 256K, 64M, 1G, 1T."""
    number, unit = (text[:-1], text[-1]) if text[-1:].upper() in _UNITS else (text, "")
    if not number.isdigit() or not int(number):
        raise click.BadParameter(f"{text!r} is not a size: write 4096, 256K, 64M or 1G")
    return int(number) * _UNITS[unit.upper()]


def classes(text: str) -> tuple[float, ...]:
    """Rates of links in turn: 1,2,5."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r} are not rates: write 1,2,5") from None


_PART = click.FloatRange(0, 1, max_open=True)
_ABOVE = click.FloatRange(0, min_open=True)


@click.command()
@click.option("--peers", type=int, default=100, show_default=True, help="Hosts that want it all.")
@click.option("--pieces", type=int, help="How many pieces the content has. [default: 1024]")
@click.option("--size", "length", type=byte_size, metavar="BYTES", help="Its size, such as 1G.")
@click.option(
    "--piece",
    type=byte_size,
    metavar="BYTES",
    help="The length of a piece. [default: 1M, or what Hawker takes for the size]",
)
@click.option(
    "--arrivals",
    default="at-once",
    show_default=True,
    metavar="HOW",
    help="at-once, poisson:SECONDS or waves:COUNT:SECONDS.",
)
@click.option(
    "--link", type=_ABOVE, default=125.0, show_default=True, metavar="MB/s", help="A peer's link."
)
@click.option(
    "--classes",
    type=classes,
    default="1",
    show_default=True,
    metavar="RATES",
    help="Links of peers as multiples of --link, in turn, such as 1,2,5.",
)
@click.option("--zones", type=click.IntRange(1), default=1, show_default=True, help="Zones.")
@click.option(
    "--zone-link",
    type=click.FloatRange(0),
    default=0.0,
    metavar="MB/s",
    help="What each zone shares towards the others. [default: no limit]",
)
@click.option("--churn", type=_PART, default=0.0, metavar="PART", help="Peers that die at half.")
@click.option("--freeze", type=_PART, default=0.0, metavar="PART", help="Peers that freeze then.")
@click.option("--seeds", type=click.IntRange(0), default=1, show_default=True, help="Seed peers.")
@click.option(
    "--origin",
    type=_ABOVE,
    metavar="MB/s",
    help="What the origin sends, in all. [default: ten links]",
)
@click.option("--evaluator", default="default", show_default=True, metavar="NAME", help="Plugin.")
@click.option(
    "--latency",
    type=click.FloatRange(0),
    default=2.0,
    show_default=True,
    metavar="MS",
    help="How long a message takes.",
)
@click.option("--seed", type=int, default=1, show_default=True, help="Of all random choices.")
@click.option(
    "--exact/--approximate",
    default=None,
    help=f"Every message, or steps of time. [default: exact up to {EXACT_PEERS} peers]",
)
@json_option
@common_options
@pass_session
def simulate(
    session: Session,
    peers: int,
    pieces: int | None,
    length: int | None,
    piece: int | None,
    arrivals: str,
    link: float,
    classes: tuple[float, ...],
    zones: int,
    zone_link: float,
    churn: float,
    freeze: float,
    seeds: int,
    origin: float | None,
    evaluator: str,
    latency: float,
    seed: int,
    exact: bool | None,
    as_json: bool,
) -> None:
    """Simulate a swarm and compare it with the least time there can be.

    The scheduler and the choice of pieces are the real ones; hosts, links and the origin are
    simulated. The same --seed gives the same result.
    """
    from hawker.core.simulation.scenario import Arrivals, Scenario

    count, piece_length = _cut(pieces, length, piece)
    scenario = Scenario(
        peers=peers,
        pieces=count,
        piece_length=piece_length,
        link=link * 1e6,
        classes=classes,
        arrivals=Arrivals.parse(arrivals),
        zones=zones,
        zone_link=zone_link * 1e6,
        churn=churn,
        freeze=freeze,
        seeds=seeds,
        origin=(10 * link if origin is None else origin) * 1e6,
        latency=latency / 1000,
        seed=seed,
    ).check()
    outcome = _run(session, scenario, evaluator, peers <= EXACT_PEERS if exact is None else exact)
    if as_json:
        click.echo(msgspec.json.encode(outcome))
    else:
        click.echo(describe(scenario, outcome))


def _cut(pieces: int | None, length: int | None, piece: int | None) -> tuple[int, int]:
    """How many pieces of which length."""
    if length is None:
        return 1024 if pieces is None else pieces, piece or MIB
    if pieces is not None:
        raise click.UsageError("--pieces and --size exclude each other")
    piece = piece or piece_length_for(length)
    return -(-length // piece), piece


def _run(session: Session, scenario: Scenario, evaluator: str, exact: bool) -> Outcome:
    from hawker.core.registry import PluginHost

    score = PluginHost(session.load().settings).get("hawker.evaluators", evaluator)
    if exact:
        from hawker.core.simulation.world import World

        return World(scenario, score).run()
    try:
        from hawker.core.simulation.approximate import approximate
    except ModuleNotFoundError as exc:
        raise Unavailable(
            f"the approximate simulation needs {exc.name}",
            hint="pip install 'hawker[simulate]', or --exact",
        ) from exc
    return approximate(scenario)


def describe(scenario: Scenario, outcome: Outcome) -> str:
    """The outcome as people read it."""
    ratio = outcome.ratio_to_optimum
    unit = outcome.optimum_seconds
    rows = [
        ["peers", f"{outcome.peers} ({outcome.engine})"],
        ["content", f"{as_size(scenario.size)} in {outcome.pieces} pieces"],
        ["optimum", f"{unit:.3f} s = {outcome.optimum_formula}"],
        ["half of the peers", _times(ratio.p50, unit)],
        ["99 % of the peers", _times(ratio.p99, unit)],
        ["the last one", _times(ratio.last, unit)],
    ]
    if len(outcome.seconds_by_rate) > 1:
        for rate, times in outcome.seconds_by_rate.items():
            own = scenario.size / rate
            text = f"last {times.last:.3f} s, {times.last / own:.3f} of its own link's time"
            rows.append([f"links of {rate / 1e6:g} MB/s", text])
    rows += [
        ["finished, starved, left", f"{outcome.finished}, {outcome.starved}, {outcome.left}"],
        ["origin", f"{outcome.origin_ratio:.4f} copies"],
        ["duplicates", f"{outcome.duplicate_ratio:.2%}"],
    ]
    if scenario.zones > 1:
        rows.append(["between zones", f"{outcome.zone_copies:.2f} copies"])
    if outcome.engine == "exact":
        rows.append(["refusals a request", f"{outcome.refusals_per_request:.2f}"])
        decisions = f"{outcome.decisions}, {outcome.decisions_per_second:.0f} a second of real time"
        rows.append(["decisions", decisions])
    points = [(point.seconds, point.complete) for point in outcome.curve]
    end = points[-1][0] if points else 1.0
    title = "\nPeers that have everything, over time:"
    return table(["", ""], rows).strip("\n") + "\n" + chart(title, points, end)


def _times(ratio: float, unit: float) -> str:
    return f"{ratio * unit:.3f} s, {ratio:.3f} times the optimum"
