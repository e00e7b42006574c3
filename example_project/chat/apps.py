from __future__ import annotations

from django.apps import AppConfig


class ChatConfig(AppConfig):
    name = "example_project.chat"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from example_project.chat import titles  # noqa: F401 - connects its receiver
