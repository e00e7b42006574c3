from __future__ import annotations

import os

from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "example_project.settings")
django = get_asgi_application()

from converse.routing import websocket_urlpatterns  # noqa: E402 - it needs the apps that the line above loads

application = ProtocolTypeRouter({"http": django, "websocket": AuthMiddlewareStack(URLRouter(websocket_urlpatterns))})
