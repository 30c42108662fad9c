"""A peer in a FastAPI app, under uvicorn.

pip install fastapi uvicorn
HAWKER_STORAGE__DATA=./data uvicorn --port 8000 examples.fastapi_uvicorn:app
curl -o file 'http://127.0.0.1:8000/hawker/peer/v1/content?url=https://example.com/file'
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from hawker.apps.mount import mount

PORT = os.environ.get("PORT", "8000")
peer = mount("peer", auth="open", advertise=f"http://127.0.0.1:{PORT}/hawker")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    # Whatever else the app needs is started here, too.
    async with peer.lifespan():
        yield


app = FastAPI(lifespan=lifespan)
app.mount("/hawker/peer", peer)


@app.get("/")
async def index() -> dict[str, str]:
    return {"app": "of ours"}
