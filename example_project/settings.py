"""Settings of the example: one process and no services. With POSTGRES_DB and REDIS_URL it grows up."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from example_project.kept import kept

BASE_DIR = Path(__file__).resolve().parent.parent
DATA_DIR = Path(os.environ.get("EXAMPLE_DATA_DIR", BASE_DIR / ".demo"))  # all that the example leaves behind

DEBUG = os.environ.get("DEBUG", "1") == "1"
SECRET_KEY = os.environ.get("SECRET_KEY") or kept(DATA_DIR / "secret-key")
ALLOWED_HOSTS = os.environ.get("ALLOWED_HOSTS", "localhost 127.0.0.1 [::1]").split()

INSTALLED_APPS = [
    "daphne",  # first: it gives runserver its websockets
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "channels",
    "converse",
    "example_project.chat",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
ROOT_URLCONF = "example_project.urls"
ASGI_APPLICATION = "example_project.asgi.application"
WSGI_APPLICATION = "example_project.wsgi.application"
STATIC_URL = "static/"
MEDIA_ROOT = DATA_DIR / "media"
LOGIN_URL = "sign-in"
LOGIN_REDIRECT_URL = "chat:home"
TIME_ZONE = "UTC"
USE_TZ = True

# SQLite serves many readers and one writer at a time, if it is told to wait rather than to fail.
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": DATA_DIR / "db.sqlite3",
        "OPTIONS": {
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
            "timeout": 20,
        },
    }
}
if database := os.environ.get("POSTGRES_DB"):
    DATABASES["default"] = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": database,
        "USER": os.environ.get("POSTGRES_USER", ""),
        "PASSWORD": os.environ.get("POSTGRES_PASSWORD", ""),
        "HOST": os.environ.get("POSTGRES_HOST", ""),
    }

# In memory, events stay in this process. Several processes meet in Redis.
CHANNEL_LAYERS: dict[str, dict[str, Any]] = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
if redis := os.environ.get("REDIS_URL"):
    CHANNEL_LAYERS["default"] = {
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        "CONFIG": {"hosts": [redis]},
    }

# The SDKs find OPENAI_API_KEY and ANTHROPIC_API_KEY in the environment by themselves.
CONVERSE_PROVIDERS: dict[str, dict[str, Any]] = {
    "echo": {
        "BACKEND": "converse.providers.echo.EchoProvider",
        "OPTIONS": {"delay": float(os.environ.get("ECHO_DELAY", "0.08"))},
    },
    "openai": {
        "BACKEND": "converse.providers.openai.OpenAIProvider",
        "OPTIONS": {"model": os.environ.get("OPENAI_MODEL", "gpt-5-mini")},
    },
    "anthropic": {
        "BACKEND": "converse.providers.anthropic.AnthropicProvider",
        "OPTIONS": {"model": os.environ.get("ANTHROPIC_MODEL", "claude-haiku-4-5")},
    },
    # Follows a script, where no model is at hand that can call tools: see its docstring.
    "planner": {
        "BACKEND": "example_project.chat.planner.Planner",
        "OPTIONS": {"delay": float(os.environ.get("PLANNER_DELAY", "0.03"))},
    },
    # Any server that speaks OpenAI's language will do: the demo command starts one and says where.
    "local": {
        "BACKEND": "converse.providers.openai.OpenAIProvider",
        "OPTIONS": {
            "model": "SmolLM2-135M-Instruct",
            "base_url": os.environ.get("LOCAL_MODEL_URL", "http://127.0.0.1:8080/v1"),
        },
    },
}
CONVERSE_DEFAULT_PROVIDER = os.environ.get("PROVIDER", "echo")
CONVERSE_CLIENT_REPLY = "example_project.chat.agent.how_to_reply"

# The example's own.
CHAT_SYSTEM_PROMPT = "You are a friendly assistant. Answer briefly and in plain text."
CHAT_AGENT_PROVIDER = os.environ.get("AGENT_PROVIDER", "planner")
CHAT_TOOL_DELAY = float(os.environ.get("TOOL_DELAY", "0.8"))  # seconds
CHAT_NOTICE = ""  # shown above every conversation
CHAT_SIGN_IN_AS = ""  # the user whom this computer is signed in as without a password: set by the demo command only
