"""A cluster's scheduler and seed in one app, under uvicorn or granian.

pip install uvicorn
hawker cluster key cluster.key
export HAWKER_STORAGE__DATA=./data HAWKER_CLUSTER__KEY_FILE=./cluster.key HAWKER_PEER__SEED=true
uvicorn --port 8000 --timeout-graceful-shutdown 5 examples.scheduler_and_seed:app
hawker serve peer --port 8001 --data ./peer --scheduler http://127.0.0.1:8000 --cluster-key cluster.key

Hosts keep streams open. Other servers do not tell an app that they are about to stop, and wait for
its answers to end: give them a limit (granian's is --workers-kill-timeout 5).
"""  # noqa: E501 (commands are one line)

import os

from hawker.apps.compose import compose
from hawker.apps.mount import mount

PORT = os.environ.get("PORT", "8000")
URL = f"http://127.0.0.1:{PORT}"
scheduler = mount("scheduler", auth="open", advertise=URL)
peer = mount("peer", auth="open", advertise=URL, beside=["scheduler"])
app = compose({"/scheduler": scheduler, "/peer": peer})
