"""The tables of one-hop rounds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from benchmarks.figures import VERDICT, machine, print_table, spread
from benchmarks.hop.measure import Series, Timed

RATE_TARGET, CPU_TARGET, LAG_TARGET = 1.3, 2.0, 0.020


def percentile(cumulative: dict[float, float], share: float) -> float:
    """A quantile of a histogram, linear within its bucket; seconds, nan where it is empty."""
    bounds = sorted(cumulative)
    wanted = share * cumulative[bounds[-1]]
    if not wanted:
        return float("nan")
    low, counted = 0.0, 0.0
    for bound in bounds:
        if cumulative[bound] >= wanted:
            if bound == float("inf"):
                return low
            part = (wanted - counted) / (cumulative[bound] - counted)
            return low + (bound - low) * part
        low, counted = bound, cumulative[bound]
    return low


def report(found: Sequence[Series], configuration: str) -> dict[str, object]:
    """Print the tables; everything in them as one object."""
    print(f"{len(found[0].hawker)} pairs, median (min-max); {machine()}\n")
    figures: dict[str, object] = {series.over.name: as_figures(series) for series in found}
    if len(found) > 1:
        compare(found)
        print()
    for series in found:
        if series.over.name == "http1":
            figures["met"] = targets(series)
    print(f"\nnginx was configured with\n\n{configuration}")
    return figures


def compare(found: Sequence[Series]) -> None:
    """All transports; nginx and curl speak what stands in the last column."""
    head = ("over", "MB", "MB/s", "curl MB/s", "/ curl", "get / curl", "CPU s/GB")
    rows: list[tuple[str, ...]] = [(*head, "parent", "child", "nginx+curl", "reference")]
    for s in found:
        cpu = s.cpu([r.cpu for r in s.hawker])
        parent = s.cpu([r.sender_cpu for r in s.hawker])
        child = s.cpu([r.receiver_cpu for r in s.hawker])
        rows.append(
            (
                *(s.over.name, f"{s.size / 1e6:.0f}"),
                *(spread(s.rates(s.hawker), 0), spread(s.rates(s.curl), 0)),
                *(spread(s.ratios(s.hawker), 2), spread(s.ratios(s.cli), 2)),
                *(spread(cpu, 2), *(f"{statistics.median(part):.2f}" for part in (parent, child))),
                f"{statistics.median(s.cpu([r.cpu for r in s.curl])):.2f}",
                s.over.reference,
            )
        )
    print_table(rows)


def targets(series: Series) -> dict[str, bool]:
    """Targets 1, 2 and 12, over plain HTTP/1.1."""
    ratios = series.ratios(series.hawker)
    cpu = series.cpu([r.cpu for r in series.hawker])
    rate_met = statistics.median(ratios) >= RATE_TARGET
    cpu_met = statistics.median(cpu) <= CPU_TARGET
    lag = {name: percentile(counts, 0.99) for name, counts in series.lag.items()}

    def rate(rounds: Sequence[Timed]) -> str:
        return spread(series.rates(rounds), 0)

    rows = [
        (f"{series.size} random bytes over HTTP/1.1", "", ""),
        ("hawker, request to done, MB/s", rate(series.hawker), ""),
        ("curl -o from nginx, MB/s", rate(series.curl), ""),
        ("hawker get, wall time, MB/s", rate(series.cli), ""),
        ("1: hawker / curl", spread(ratios, 2), f">= {RATE_TARGET}: {VERDICT[rate_met]}"),
        ("   hawker get / curl", spread(series.ratios(series.cli), 2), ""),
        ("2: CPU, s/GB", spread(cpu, 2), f"<= {CPU_TARGET}: {VERDICT[cpu_met]}"),
        ("   of it the parent's", _cpu(series, [r.sender_cpu for r in series.hawker]), ""),
        ("   of it the child's", _cpu(series, [r.receiver_cpu for r in series.hawker]), ""),
        ("   nginx and curl, s/GB", _cpu(series, [r.cpu for r in series.curl]), ""),
    ]
    for name, value in lag.items():
        told = f"<= {LAG_TARGET * 1e3:.0f}: {VERDICT[value <= LAG_TARGET]}"
        rows.append((f"12: event-loop lag p99, {name}, ms", f"{value * 1e3:.1f}", told))
    if series.floor:
        floor = series.floor
        rows += [
            ("floor (bare threads from nginx), MB/s", rate(floor), ""),
            ("   floor / curl", spread(series.ratios(floor), 2), ""),
            ("   nginx's CPU, s/GB", _cpu(series, [r.sender_cpu for r in floor]), ""),
            ("   the threads' CPU, s/GB", _cpu(series, [r.receiver_cpu for r in floor]), ""),
        ]
    print_table(rows)
    lag_met = all(value <= LAG_TARGET for value in lag.values())
    return {"1": rate_met, "2": cpu_met, "12": lag_met}


def _cpu(series: Series, seconds: Sequence[float]) -> str:
    return spread(series.cpu(seconds), 2)


def as_figures(series: Series) -> dict[str, object]:
    """Every single measurement."""
    lag = {name: percentile(counts, 0.99) for name, counts in series.lag.items()}
    return {
        "size": series.size,
        "hawker_seconds": [r.seconds for r in series.hawker],
        "curl_seconds": [r.seconds for r in series.curl],
        "cli_seconds": [r.seconds for r in series.cli],
        "floor_seconds": [r.seconds for r in series.floor],
        "ratios": series.ratios(series.hawker),
        "parent_cpu_seconds_per_gb": series.cpu([r.sender_cpu for r in series.hawker]),
        "child_cpu_seconds_per_gb": series.cpu([r.receiver_cpu for r in series.hawker]),
        "curl_cpu_seconds_per_gb": series.cpu([r.cpu for r in series.curl]),
        "floor_cpu_seconds_per_gb": series.cpu([r.cpu for r in series.floor]),
        "lag_p99_seconds": lag,
    }
