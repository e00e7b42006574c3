"""Websocket routes: ``URLRouter(websocket_urlpatterns)`` inside Channels' ``AuthMiddlewareStack``."""

from __future__ import annotations

from typing import Any

from django.urls import path

from converse.transports.pusher.sockets import pusher
from converse.transports.websocket import websocket

# URLRouter takes Django's paths to ASGI applications; the types of neither know of that.
_path: Any = path
websocket_urlpatterns: list[Any] = [_path("converse/ws/", websocket), _path("app/<str:key>", pusher)]
