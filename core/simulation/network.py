"""A network as a fluid: flows share the links they cross, max-min fairly.

Rates are found as in distributed max-min algorithms (Bertsekas & Gallager, Data Networks, section
6.5): each link has a level, the most that any of its flows gets there, computed by water-filling
with the levels of each flow's other links as caps; a flow's rate is the least of its links' levels.
Where a flow comes or goes, levels are computed anew from there outward, as far as they change.

A flow has few links, a host's link few flows. A link shared by a zone has thousands: its level is
computed once in a while (`PACE`) and not with each of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf

from hawker.core.simulation.timeline import Timeline

# Levels that change by less than this part are not told further.
TOLERANCE = 0.01
# Links looked at for one flow that comes or goes, so that a change has an end in large swarms.
MOST_LOOKS = 32
# Seconds between two computations of a shared link's level.
PACE = 0.005


class Link:
    """One direction of a connection, `rate` bytes per second; `shared` by many hosts."""

    __slots__ = ("carried", "flows", "level", "pending", "rate", "shared")

    def __init__(self, rate: float, *, shared: bool = False) -> None:
        self.rate = rate
        self.shared = shared
        self.level = inf
        self.flows: list[Flow] = []
        self.pending = False
        self.carried = 0.0

    def fill(self) -> float:
        """The level of this link: inf where the flows cannot use all of it."""
        flows = self.flows
        count = len(flows)
        if not count:
            return inf
        share = self.rate / count
        caps = [self._cap(flow) for flow in flows]
        if min(caps) >= share:
            return share
        caps.sort()
        left = self.rate
        for cap in caps:
            if cap * count >= left:
                return left / count
            left -= cap
            count -= 1
        return inf

    def _cap(self, flow: Flow) -> float:
        """The least of a flow's other levels."""
        links = flow.links
        if len(links) == 2:
            return links[1].level if links[0] is self else links[0].level
        return min((link.level for link in links if link is not self), default=inf)


class Flow:
    """`left` bytes on their way over `links`; `done` is called as the last one arrives."""

    __slots__ = ("alive", "done", "due", "left", "links", "rate", "since", "size")

    def __init__(
        self, size: float, links: tuple[Link, ...], done: Callable[[Flow], None], now: float
    ) -> None:
        self.size = self.left = size
        self.links = links
        self.done = done
        self.rate = 0.0
        self.since = now
        self.due = inf
        self.alive = True


class Network:
    """Flows over links, as time passes."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline

    def start(self, size: float, links: tuple[Link, ...], done: Callable[[Flow], None]) -> Flow:
        """Send bytes over links."""
        flow = Flow(size, links, done, self._timeline.now)
        for link in links:
            link.flows.append(flow)
        self._settle(links, flow)
        return flow

    def stop(self, flow: Flow) -> float:
        """End a flow early; the bytes that arrived."""
        if flow.alive:
            self._advance(flow)
            self._remove(flow)
            self._settle(flow.links, None)
        return flow.size - flow.left

    def limit(self, link: Link, rate: float) -> None:
        """A link has another rate from now on."""
        link.rate = rate
        self._settle((link,), None)

    # ------------------------------------------------------------------ rates

    def _settle(self, links: tuple[Link, ...], new: Flow | None) -> None:
        """Levels around these links, then the rates of every flow that they change."""
        queue = deque(link for link in links if not self._postpone(link))
        changed: dict[Link, None] = {}
        looks = 0
        while queue and looks < MOST_LOOKS:
            looks += 1
            link = queue.popleft()
            old, level = link.level, link.fill()
            if level == old or (level != inf and abs(level - old) <= TOLERANCE * level * 0.01):
                continue
            link.level = level
            changed[link] = None
            if old != inf and level != inf and abs(level - old) <= TOLERANCE * level:
                continue
            least = min(old, level)
            for flow in link.flows:
                for other in flow.links:
                    # Where the flow is held back more there than here, nothing changes there.
                    if other is not link and other.level > least and not other.shared:
                        if other not in queue:
                            queue.append(other)
        flows: dict[Flow, None] = {} if new is None else {new: None}
        for link in changed:
            for flow in link.flows:
                flows[flow] = None
        for flow in flows:
            self._pace(flow)

    def _postpone(self, link: Link) -> bool:
        if not link.shared:
            return False
        if not link.pending:
            link.pending = True
            self._timeline.at(self._timeline.now + PACE, self._catch_up, link)
        return True

    def _catch_up(self, link: Link) -> None:
        """The level of a shared link, after whatever happened to its flows."""
        link.pending = False
        old, link.level = link.level, link.fill()
        if old == link.level:
            return
        ends: dict[Link, None] = {}
        for flow in link.flows:
            for other in flow.links:
                if not other.shared:
                    ends[other] = None
        for end in ends:
            end.level = end.fill()
        for end in ends:
            for flow in end.flows:
                self._pace(flow)

    def _pace(self, flow: Flow) -> None:
        rate = inf
        for link in flow.links:
            if link.level < rate:
                rate = link.level
        if rate == inf:
            # Each of its links waits for the others to be told.
            rate = min(link.rate / len(link.flows) for link in flow.links)
        if rate == flow.rate:
            return
        self._advance(flow)
        flow.rate = rate
        if rate <= 0.0:
            return
        end = self._timeline.now + flow.left / rate
        # An end that comes later than planned is found when the planned one is there.
        if end < flow.due:
            flow.due = end
            self._timeline.at(end, self._arrive, flow, end)

    def _advance(self, flow: Flow) -> None:
        now = self._timeline.now
        flow.left = max(0.0, flow.left - flow.rate * (now - flow.since))
        flow.since = now

    def _arrive(self, flow: Flow, planned: float) -> None:
        if not flow.alive or planned != flow.due:
            return
        self._advance(flow)
        if flow.left > 1.0:
            flow.due = inf
            if flow.rate > 0.0:
                flow.due = self._timeline.now + flow.left / flow.rate
                self._timeline.at(flow.due, self._arrive, flow, flow.due)
            return
        flow.left = 0.0
        self._remove(flow)
        self._settle(flow.links, None)
        flow.done(flow)

    def _remove(self, flow: Flow) -> None:
        flow.alive = False
        for link in flow.links:
            link.carried += flow.size - flow.left
            link.flows.remove(flow)
