"""What the clients visit, and a door by which a suite has something done inside of the server's process."""

from __future__ import annotations

import json
import traceback
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.staticfiles.views import serve as serve_static
from django.http import HttpRequest, JsonResponse
from django.urls import include, path
from django.views.decorators.csrf import csrf_exempt
from django.views.static import serve

from tests.clients import acts


@csrf_exempt
async def act(request: HttpRequest, name: str) -> JsonResponse:
    """Do what a suite wants done; its arguments and the result are JSON."""
    try:
        done: Any = await sync_to_async(getattr(acts, name), thread_sensitive=False)(**json.loads(request.body))
    except Exception:
        return JsonResponse({"error": traceback.format_exc()}, status=500)
    return JsonResponse({"result": done})


urlpatterns = [
    path("act/<name>", act),
    path("pages/<path:path>", serve, {"document_root": settings.PAGES}),
    path("static/<path:path>", serve_static, {"insecure": True}),
    path("converse/", include("converse.urls")),
    path("", include("converse.echo_urls")),
]
