"""Use the installed wheel as a newcomer without any extra does: migrate, ask, read."""

from __future__ import annotations

import django
from django.conf import settings
from django.core.management import call_command

settings.configure(
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "channels", "converse"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "bare.sqlite3"}},
    CONVERSE_PROVIDERS={"default": {"BACKEND": "converse.providers.echo.EchoProvider", "OPTIONS": {"delay": 0}}},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)
django.setup()
call_command("migrate", verbosity=0)

from converse.models import Conversation  # noqa: E402 - the apps must be loaded first

reply = Conversation.objects.start().ask("Hello from the wheel!")
assert (reply.status, reply.text) == ("completed", "Hello from the wheel!")
print(reply.text)
