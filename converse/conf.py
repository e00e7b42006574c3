from __future__ import annotations

from typing import Any

from django.conf import settings as django_settings


class Settings:
    """Converse's settings, each read from Django's at the time of use."""

    # Providers: alias -> {"BACKEND": dotted path of a Provider, "OPTIONS": {...}}.
    CONVERSE_PROVIDERS: dict[str, Any] = {}
    CONVERSE_DEFAULT_PROVIDER: str = "default"
    CONVERSE_RUNNER: str = "converse.runners.BackgroundRunner"
    CONVERSE_CLIENT_PROVIDERS: tuple[str, ...] = ()  # aliases, besides the default, that a client may ask for
    CONVERSE_POLICY: str = "reject"
    CONVERSE_OPEN_LIMIT: int = 10  # replies open in one conversation, whatever the policy
    CONVERSE_RETRIES: int = 2  # further attempts before the first token
    CONVERSE_RETRY_DELAY: float = 0.5  # seconds before the first retry; doubles, with jitter
    CONVERSE_IDLE_TIMEOUT: float = 120.0  # seconds without any delta
    CONVERSE_TOTAL_TIMEOUT: float = 1800.0  # seconds for one whole reply

    # Writing.
    CONVERSE_FLUSH_INTERVAL: float = 0.05  # seconds between two flushes of a busy journal
    CONVERSE_JOURNAL_LIMIT: int = 4_000_000  # characters waiting for the database before appends wait too
    CONVERSE_LEASE: float = 15.0  # seconds a reply outlives its writer
    CONVERSE_STALE_AFTER: float = 300.0  # seconds a message streamed by hand may go without an append

    # Reading.
    CONVERSE_CHANNEL_LAYER: str = "default"
    CONVERSE_EVENT_LIMIT: int = 64_000  # bytes of one event; a larger one is read from the table
    CONVERSE_SWEEP_INTERVAL: float = 1.0  # seconds between two looks at the heads
    CONVERSE_SNAPSHOT_LIMIT: int = 200  # messages in a snapshot
    CONVERSE_PUBLIC_METADATA: tuple[str, ...] = (
        "stream_chunks",
        "stream_duration",
        "stream_started_at",
        "stream_completed_at",
        "stream_failed_at",
        "stream_first_chunk_ms",
        "tokens",
        "model",
        "finish_reason",
    )

    # The doors.
    CONVERSE_AUTHORIZE: str = "converse.permissions.owner_or_participant"
    CONVERSE_REAUTHORIZE_INTERVAL: float = 60.0  # seconds between two checks of a standing subscription
    CONVERSE_MESSAGE_LIMIT: int = 100_000  # characters of a message that a client sends
    CONVERSE_FRAME_LIMIT: int = 512_000  # bytes of a frame that a client sends
    CONVERSE_FRAME_RATE: float = 20.0  # frames a second and socket, acknowledgements and pings apart
    CONVERSE_SUBSCRIPTION_LIMIT: int = 100  # conversations a socket
    CONVERSE_ALLOWED_ORIGINS: tuple[str, ...] = ()  # besides the hosts of ALLOWED_HOSTS
    CONVERSE_WINDOW: int = 256_000  # bytes sent to a websocket reader ahead of its acknowledgements
    CONVERSE_ACK_TIMEOUT: float = 30.0  # seconds a full window may stand before the socket is closed

    def __getattribute__(self, name: str) -> Any:
        default = super().__getattribute__(name)
        return getattr(django_settings, name, default) if name.isupper() else default


settings = Settings()
