"""A peer beside a Django project: Django has no lifespan, so Starlette stands outside.

pip install django uvicorn
HAWKER_STORAGE__DATA=./data uvicorn --port 8000 examples.django_starlette:app
curl -o file 'http://127.0.0.1:8000/hawker/peer/v1/content?url=https://example.com/file'
"""

import os

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path
from starlette.applications import Starlette
from starlette.routing import Mount

from hawker.apps.mount import mount

PORT = os.environ.get("PORT", "8000")
# A project of your own has these in its settings.py and urls.py.
settings.configure(ROOT_URLCONF=__name__, SECRET_KEY="of the example", ALLOWED_HOSTS=["127.0.0.1"])


def index(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"app": "of ours"})


urlpatterns = [path("", index)]

peer = mount("peer", auth="open", advertise=f"http://127.0.0.1:{PORT}/hawker")
app = Starlette(
    routes=[Mount("/hawker/peer", app=peer), Mount("/", app=get_asgi_application())],
    lifespan=peer.lifespan,
)
