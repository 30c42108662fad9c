"""Reports and announcements of a host that holds the cluster's key and lies about everything."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from hawker.core.ids import TaskSpec
from hawker.core.messages import AnyReport
from tests.apps.running import MIB, Running, refused

SPEC = TaskSpec(url="http://origin.test/reported")
LAYOUT = {"total": 8 * MIB, "piece_length": MIB}
READER = {"host": "ab" * 16, "key": base64.b64encode(bytes(32)).decode(), "lease": "import-1"}

# A report of each kind that makes sense, but for what it says of this host's part.
SENSIBLE: dict[str, dict[str, Any]] = {
    "register": {
        "spec": {"url": SPEC.url},
        "want": [[0, MIB]],
        "private": False,
        "readable": True,
        "priority": 6,
        "generation": "0" * 16,
        "layout": LAYOUT,
        "have": [[0, 7]],
        "readers": [READER],
        "failover": False,
        "request": "r-1",
    },
    "have": {"generation": "0" * 16, "pieces": [[0, 1]], "senders": {"ab" * 16: MIB}},
    "parent-failed": {"parent": "ab" * 16, "reason": "stalled", "generation": "0" * 16},
    "piece-corrupt": {"generation": "0" * 16, "piece": 0, "parent": "ab" * 16},
    "lease-progress": {
        "lease": "0" * 16,
        "generation": "0" * 16,
        "layout": LAYOUT,
        "validator": '"v"',
        "ranged": True,
        "read_bytes": 1,
        "read_pieces": 1,
        "done": False,
        "digest": "sha256:" + "5" * 64,
        "checks": True,
        "modified": 1_600_000_000,
    },
    "changed": {"generation": "0" * 16, "lease": "0" * 16},
    "length": {"generation": "0" * 16, "total": 8 * MIB},
    "finished": {"generation": "0" * 16},
    "failed": {"problem": {"type": "urn:x", "title": "t", "status": 500}, "lease": ""},
    "left": {},
    "usage": {
        "tenant": "acme",
        "life": "0" * 16,
        "claims": [[1, "place", 1, False], [2, "read", MIB, True], [3, "room", MIB, False]],
        "downloads": 1,
        "rate": MIB,
        "bandwidth": MIB,
        "period": 20_000,
        "read_bytes": MIB,
        "stored_bytes": MIB,
        "idle": [[1_600_000_000.0, MIB]],
        "idle_bytes": MIB,
        "kept": 0,
        "moved": False,
        "left": False,
    },
}
HUGE = 2**62
ODD: tuple[Any, ...] = (
    None,
    0,
    -1,
    2**63,
    10**30,
    1.5,
    "",
    "x",
    "..",
    "\0\n",
    "a" * 100_000,
    [],
    {},
    [None],
    [[5, 3]],
    [[-5, -3]],
    [[0, HUGE]],
    [[HUGE, HUGE + 1]],
    [[0]],
    [[0, 1, 2]],
    [[HUGE, None]],
    [[0, 1]] * 5000,
    [[n * 2, n * 2] for n in range(5000)],
    {"total": -1, "piece_length": MIB},
    {"total": HUGE, "piece_length": MIB},
    {"total": 1, "piece_length": 0},
    {"total": 1, "piece_length": 3},
    {"total": None, "piece_length": -MIB},
    {"url": SPEC.url, "tag": "other"},
    {"url": "no url at all"},
    {"type": "", "title": "", "status": -1, "retry_after": -1e308},
    [READER] * 5000,
    {"": -1},
    {str(n): HUGE for n in range(5000)},
    True,
)


class Host:
    """A host that announced itself and whose decisions are read."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.base = f"/scheduler/v1/hosts/{running.host.host}"
        self.seq = 0
        self.announce()

    def announce(self, **fields: Any) -> int:
        announcement = {
            "url": "http://127.0.0.1:9/peer",
            "key": base64.b64encode(self.running.host.public).decode(),
            "boot": "1",
        }
        body = msgspec.json.encode(announcement | fields)
        return self.running.send("PUT", self.base, body).status_code

    def begin(self, spec: TaskSpec) -> dict[str, Any]:
        """Read a task under a lease; returns what its reports name."""
        register = {"kind": "register", "task": spec.task_id, "spec": spec, "private": True}
        [lease] = [d["lease"] for d in self.report(register) if d["kind"] == "read"]
        own = {"task": spec.task_id, "lease": lease, "generation": "0" * 16}
        self.report({"kind": "lease-progress", **SENSIBLE["lease-progress"], **own})
        return own

    def report(self, event: dict[str, Any], boot: str = "1") -> list[dict[str, Any]]:
        """Send an event; returns what was decided for this host."""
        self.seq += 1
        body = msgspec.json.encode({"boot": boot, "events": [{"seq": self.seq} | event]})
        answer = self.running.send("POST", f"{self.base}/reports", body)
        assert answer.status_code == 200, answer.text
        decisions: list[dict[str, Any]] = answer.json()["decisions"]
        return decisions


@pytest.fixture
def host(closed: Running) -> Iterator[Host]:
    made = Host(closed)
    headers = {"authorization": f"Bearer {closed.own.mint(closed.host.host, ['decisions'])}"}
    with closed.client.stream("GET", f"{made.base}/decisions", headers=headers) as decisions:
        assert decisions.status_code == 200
        yield made
    assert closed.send("DELETE", made.base).status_code == 204


def test_every_kind_of_report_is_tried() -> None:
    kinds = {kind.__struct_config__.tag: kind for kind in AnyReport.__args__}
    assert set(SENSIBLE) == set(kinds)
    for name, kind in kinds.items():
        own = set(kind.__struct_fields__) - {"task", "seq"}
        assert set(SENSIBLE[name]) == own, name


@pytest.mark.parametrize("kind", SENSIBLE)
def test_a_report_that_makes_no_sense_harms_nobody(closed: Running, host: Host, kind: str) -> None:
    memory = closed.most_memory
    for name in (*SENSIBLE[kind], "task", "seq"):
        for number, odd in enumerate(ODD):
            # An origin of its own each, for only so many are read of one.
            spec = TaskSpec(url=f"http://{kind}-{name}-{number}.origin.test/x")
            own = host.begin(spec)
            fields = SENSIBLE[kind] | ({"spec": spec} if kind == "register" else {})
            known = {key: value for key, value in own.items() if key in (*fields, "task")}
            host.report({"kind": kind, **fields, **known, name: odd}, boot=f"{name} {number}")
            # What the scheduler took of it counts when somebody must read the rest.
            over = SENSIBLE["lease-progress"] | own | {"done": True}
            host.report({"kind": "lease-progress", **over})
            host.report({"kind": "left", "task": spec.task_id})
    assert closed.most_memory - memory < 96 * MIB
    sane = TaskSpec(url=f"http://origin.test/after-{kind}")
    decided = host.report({"kind": "register", "task": sane.task_id, "spec": sane})
    assert sane.task_id in {decision["task"] for decision in decided}
    closed.check()


def test_an_announcement_that_makes_no_sense_is_refused(closed: Running, host: Host) -> None:
    senseless: tuple[dict[str, Any], ...] = (
        {"url": ""},
        {"url": "http://127.0.0.1"},
        {"url": "ftp://127.0.0.1:9/"},
        {"url": "http://127.0.0.1:99999/"},
        {"url": "http://[/"},
        {"url": "http://10.1.2.3:9/peer"},
        {"url": "http://169.254.169.254:80/peer"},
        {"url": "http://127.0.0.1:9/peer?x=y"},
        {"url": "http://\0:9/peer"},
        {"url": "http://" + "a" * 300 + ":9/peer"},
        {"url": "http://" + "a." * 200 + ":9/peer"},
        {"key": ""},
        {"key": base64.b64encode(bytes(32)).decode()},
        {"hostname": "h" * 100_000},
        {"transports": ["t"] * 100_000},
        {"load": {"uploads": "many"}},
    )
    for fields in senseless:
        assert host.announce(**fields) in (400, 403, 413), fields
    odd: tuple[dict[str, Any], ...] = ({"upload_slots": -HUGE}, {"upload_slots": HUGE})
    for fields in odd:
        assert host.announce(**fields) == 200, fields
    closed.check()


def test_only_who_announced_itself_reports(closed: Running) -> None:
    base = f"/scheduler/v1/hosts/{closed.host.host}"
    batch = msgspec.json.encode({"boot": "1", "events": []})
    refused(closed.send("POST", f"{base}/reports", batch), 404)
    refused(closed.send("GET", f"{base}/decisions"), 404)
    closed.check()
