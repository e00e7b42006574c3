"""Settings of the tests; the environment chooses the database and the layer: see docs/how-to/contributing.md."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

SECRET_KEY = "tests"
DEBUG = False
USE_TZ = True
TIME_ZONE = "UTC"  # the one that MariaDB knows without being told
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "testserver"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "channels",
    "converse",
    "tests.owners",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [Path(__file__).parent / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    },
    {
        "BACKEND": "django.template.backends.dummy.TemplateStrings",
        "DIRS": [Path(__file__).parent / "templates" / "strings"],
        "APP_DIRS": False,
        "OPTIONS": {},
    },
]
ROOT_URLCONF = "tests.urls"
ASGI_APPLICATION = "tests.asgi.application"
STATIC_URL = "static/"
MEDIA_ROOT = Path(tempfile.gettempdir()) / f"converse-tests-{os.getpid()}-media"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.InMemoryStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


def database() -> dict[str, object]:
    """Give the database that CONVERSE_TEST_DATABASE names: sqlite, postgresql or mariadb."""
    name = os.environ.get("CONVERSE_TEST_DATABASE_NAME", "converse")
    match os.environ.get("CONVERSE_TEST_DATABASE", "sqlite"):
        case "postgresql":
            return {
                "ENGINE": "django.db.backends.postgresql",
                "HOST": "127.0.0.1",
                "USER": os.environ.get("PGUSER", "postgres"),
                "NAME": name,
            }
        case "mariadb":
            return {
                "ENGINE": "django.db.backends.mysql",
                "HOST": "127.0.0.1",
                "USER": "root",
                "NAME": name,
                "OPTIONS": {"charset": "utf8mb4"},
                "TEST": {"CHARSET": "utf8mb4"},
            }
    file = (
        os.environ.get("CONVERSE_TEST_DATABASE_FILE")
        or Path(tempfile.gettempdir()) / f"converse-tests-{os.getpid()}.sqlite3"
    )
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": file,
        "OPTIONS": {
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        },
        "TEST": {"NAME": f"{file}.test"},
    }


DATABASES = {"default": database()}

REDIS_URL = os.environ.get("CONVERSE_TEST_REDIS", "redis://127.0.0.1:6379/0")
CHANNEL_LAYERS = {
    "default": {
        "redis": {
            "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
            "CONFIG": {"hosts": [REDIS_URL], "prefix": os.environ.get("CONVERSE_TEST_PREFIX", "converse-tests")},
        },
        "memory": {"BACKEND": "channels.layers.InMemoryChannelLayer"},
    }[os.environ.get("CONVERSE_TEST_LAYER", "memory")]
}

CONVERSE_PROVIDERS = {"default": {"BACKEND": "converse.providers.echo.EchoProvider", "OPTIONS": {"delay": 0}}}
