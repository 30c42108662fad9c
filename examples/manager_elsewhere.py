"""A manager below /admin of a Starlette app, under uvicorn.

pip install starlette uvicorn
HAWKER_STORAGE__DATA=./data uvicorn --port 8000 examples.manager_elsewhere:app
curl http://127.0.0.1:8000/admin/api/v1/openapi.json
"""

import os

from starlette.applications import Starlette
from starlette.routing import Mount

from hawker.apps.mount import mount

PORT = os.environ.get("PORT", "8000")
manager = mount("manager", auth="open", advertise=f"http://127.0.0.1:{PORT}", path="/admin")
app = Starlette(routes=[Mount("/admin", app=manager)], lifespan=manager.lifespan)
