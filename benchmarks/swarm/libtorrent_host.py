"""A host of libtorrent.

    python -m benchmarks.swarm.libtorrent_host ADDRESS PORT TORRENT DIRECTORY [seed]

Says a JSON line when it is ready (a seed: when it seeds); a receiver begins with the line `go` and
says when it has everything. Any other line is answered with its counters. Ends with its input.
"""

from __future__ import annotations

import json
import sys
import threading
import time

import libtorrent as lt

# Everything that could hold a swarm on a quick, private network back is lifted; transport is TCP,
# as for the others.
SETTINGS: lt.settings_pack = {
    "unchoke_slots_limit": -1,
    "connections_limit": 1000,
    "connection_speed": 500,
    "allow_multiple_connections_per_ip": True,
    "upload_rate_limit": 0,
    "download_rate_limit": 0,
    "rate_limit_ip_overhead": False,
    "enable_outgoing_utp": False,
    "enable_incoming_utp": False,
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "in_enc_policy": 2,
    "out_enc_policy": 2,
    "request_queue_time": 3,
    "max_out_request_queue": 1500,
    "min_reconnect_time": 1,
    "torrent_connect_boost": 255,
}
SECONDS_BETWEEN_ALERTS = 1


def say(**told: object) -> None:
    print(json.dumps(told), flush=True)


class Host:
    """One session with one torrent."""

    def __init__(self, address: str, port: str, torrent: str, directory: str, seed: bool) -> None:
        categories = (
            lt.alert.category_t.status_notification | lt.alert.category_t.error_notification
        )
        settings: lt.settings_pack = {
            **SETTINGS,
            "listen_interfaces": f"{address}:{port}",
            "alert_mask": int(categories),
        }
        self.session = lt.session(settings)
        parameters = lt.add_torrent_params()
        parameters.ti = lt.torrent_info(torrent)
        parameters.save_path = directory
        # Automatic management may queue or stop a torrent.
        parameters.flags &= ~(lt.torrent_flags.paused | lt.torrent_flags.auto_managed)
        if seed:
            parameters.flags |= lt.torrent_flags.seed_mode
        self.parameters = parameters
        self.handle: lt.torrent_handle | None = None

    def begin(self) -> None:
        self.handle = self.session.add_torrent(self.parameters)

    def fetch(self) -> None:
        """Begin, and say when the last piece is verified and here."""
        self.begin()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self.session.wait_for_alert(SECONDS_BETWEEN_ALERTS * 1000)
            for alert in self.session.pop_alerts():
                if isinstance(alert, lt.torrent_finished_alert):
                    say(done=time.monotonic())

    def figures(self) -> dict[str, int]:
        if self.handle is None:
            return {}
        status = self.handle.status()
        return {"duplicate_bytes": status.total_redundant_bytes + status.total_failed_bytes}


def main() -> None:
    address, port, torrent, directory, *role = sys.argv[1:]
    host = Host(address, port, torrent, directory, seed=bool(role))
    if role:
        host.begin()
    say(ready=True)
    for line in sys.stdin:
        if line.strip() == "go":
            host.fetch()
        else:
            say(**host.figures())


if __name__ == "__main__":
    main()
