"""A role by itself under any ASGI server that runs lifespans, here granian.

    pip install granian
    HAWKER_STORAGE__DATA=./data granian --interface asgi --port 8000 examples.role_alone:app
    curl -o file 'http://127.0.0.1:8000/v1/content?url=https://example.com/file'

Others reach the role below `/peer`, so a role that stands at the root serves clients only; for a
cluster mount it at `/peer` as the other examples do.
"""

import os

from hawker.apps.mount import mount

PORT = os.environ.get("PORT", "8000")
app = mount("peer", auth="open", advertise=f"http://127.0.0.1:{PORT}")
