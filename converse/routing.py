"""Websocket routes: ``URLRouter(websocket_urlpatterns)`` inside Channels' ``AuthMiddlewareStack``."""

from __future__ import annotations

from django.urls import path

from converse.transports.websocket import websocket

websocket_urlpatterns = [path("converse/ws/", websocket)]
