"""Websocket routes: ``URLRouter(websocket_urlpatterns)`` inside Channels' ``AuthMiddlewareStack``."""

from __future__ import annotations

from django.urls import path

from converse.transports.websocket import websocket

# URLRouter takes Django's paths to ASGI applications, which Django's own types do not know.
websocket_urlpatterns = [path("converse/ws/", websocket)]  # type: ignore[arg-type]
