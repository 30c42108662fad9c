"""Which cluster a host belongs to, as the searcher says."""

from __future__ import annotations

from hawker.apps.manager import wire
from hawker.apps.manager.call import Call
from hawker.apps.manager.operation import Operation
from hawker.apps.manager.roster import Roster
from hawker.core.contracts import ClusterMatch, HostView, Searcher
from hawker.core.errors import NotFound


class Search:
    """Asks the searcher, with the clusters as they are."""

    def __init__(self, roster: Roster, searcher: Searcher) -> None:
        self._roster = roster
        self._searcher = searcher

    def operations(self) -> list[Operation]:
        return [
            Operation(
                "GET", "/search", "Clusters by how well they fit a host, best first",
                ("clusters", "read"), self.find, answer=wire.Found, many=True,
                parameters=("hostname", "address", "idc", "location"),
            )
        ]  # fmt: skip

    async def find(self, call: Call) -> None:
        given = call.request.query_params
        address = given.get("address")
        host = HostView(
            hostname=given.get("hostname", ""),
            addresses=[] if address is None else [address],
            idc=given.get("idc", ""),
            location=given.get("location", ""),
        )
        call.answer = [
            wire.Found(id_, m.cluster.name, m.score, m.reason, self._roster.schedulers(id_))
            for id_, m in await self._matches(host)
            if call.may(("clusters", "read"), None, id_)
        ]

    async def best(self, host: HostView) -> tuple[str, str]:
        """The id of the cluster that fits best, and why; raises NotFound where there is none."""
        for id_, match in await self._matches(host):
            return id_, match.reason
        raise NotFound("there is no cluster that the host may join")

    async def _matches(self, host: HostView) -> list[tuple[str, ClusterMatch]]:
        await self._roster.refresh()
        views = self._roster.views()
        ids = {view.name: id_ for id_, view in views.items()}
        return [(ids[m.cluster.name], m) for m in self._searcher.search(host, [*views.values()])]
