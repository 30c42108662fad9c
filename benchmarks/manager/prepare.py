"""A manager's data directory with members that have joined, written straight into its database.

    python -m benchmarks.manager.prepare DIRECTORY PEERS SCHEDULERS

Prints a JSON line: the cluster's id, a user's token that may change it, and each member's kind,
host and token. The tokens are as real as those that the API gives.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
import time
from pathlib import Path
from typing import Any

from hawker.apps.manager import changes, models
from hawker.apps.manager.database import Database
from hawker.apps.manager.secret import KeyedHash, new_token
from hawker.core.membership import MEMBER_PREFIX

AT_ONCE = 1000
DAYS = 30 * 86400.0


async def prepare(directory: Path, kinds: dict[str, int]) -> dict[str, Any]:
    path = directory / "manager.key"
    KeyedHash.create(path)
    hashed = KeyedHash.read(path)
    database = Database("", directory)
    await database.open()
    try:
        with database.active():
            await models.Fact.create(name=models.KEY, value=hashed.fingerprint)
            await changes.begin()
            cluster = await models.Cluster.create(name="benchmark")
            token = await _user(hashed)
            members = []
            for kind, count in kinds.items():
                members += await _members(hashed, cluster, kind, count)
    finally:
        await database.close()
    return {"cluster": cluster.id, "token": token, "members": members}


async def _user(hashed: KeyedHash) -> str:
    user, value = await models.User.create(name="benchmark"), new_token()
    await models.RoleBinding.create(user=user, role="root")
    await models.Token.create(
        user=user,
        name="benchmark",
        prefix=value[:12],
        digest=hashed.digest("token", value),
        scopes=["clusters:read", "clusters:update", "members:read"],
        expires=time.time() + DAYS,
    )
    return value


async def _members(
    hashed: KeyedHash, cluster: models.Cluster, kind: str, count: int
) -> list[tuple[str, str, str]]:
    made = [(kind, secrets.token_hex(16), new_token(MEMBER_PREFIX)) for _ in range(count)]
    now = time.time()
    rows = [
        models.Member(
            id=models.new_id(), cluster_id=cluster.id, host=host, kind=kind, url="", kept_alive=now
        )
        for kind, host, _ in made
    ]
    shown = [
        models.Credential(
            member_id=row.id, digest=hashed.digest("member", token), expires=now + DAYS
        )
        for row, (_, _, token) in zip(rows, made, strict=True)
    ]
    await models.Member.bulk_create(rows, batch_size=AT_ONCE)
    await models.Credential.bulk_create(shown, batch_size=AT_ONCE)
    return made


def main() -> None:
    directory, peers, schedulers = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    directory.mkdir(parents=True, mode=0o700)
    kinds = {"scheduler": schedulers, "peer": peers}
    print(json.dumps(asyncio.run(prepare(directory, kinds))))


if __name__ == "__main__":
    main()
