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
    CONVERSE_RETRY_DELAY: float = 0.5  # seconds before the first retry at most; doubles
    CONVERSE_RETRY_AFTER_LIMIT: float = 60.0  # seconds to wait at most where a provider says how long
    CONVERSE_IDLE_TIMEOUT: float = 120.0  # seconds in which a provider says nothing
    CONVERSE_TOTAL_TIMEOUT: float = 1800.0  # seconds for one whole reply

    # Tools.
    CONVERSE_MAX_STEPS: int = 10  # answers of the provider in one reply
    CONVERSE_TOOL_TIMEOUT: float = 60.0  # seconds for one call
    CONVERSE_TOOL_RESULT_LIMIT: int = 50_000  # characters of a result

    # Dotted paths of handlers that watch every reply of a provider.
    CONVERSE_HANDLERS: tuple[str, ...] = ()

    # What a provider is to see, and what conversations are called.
    CONVERSE_CONTEXT_WINDOW: dict[str, int] = {}  # {"tokens": …}, {"messages": …} or both
    CONVERSE_TOKEN_COUNTER: str = "converse.windows.estimate"  # noqa: S105
    CONVERSE_SUMMARIZER: str = ""  # no summary of what falls out of a window
    CONVERSE_TITLER: str = ""  # titles are your own business
    CONVERSE_TITLE_PROVIDER: str = ""  # the default one

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
        "retryable",
        "retry_after",
    )

    # Dollars a million tokens, by model: {"input", "cached_input", "cache_write", "output"}, or a function's path.
    CONVERSE_PRICES: dict[str, Any] | str = {}

    # Attachments.
    CONVERSE_ATTACHMENT_STORAGE: str = "default"  # alias in STORAGES
    CONVERSE_ATTACHMENT_LIMIT: int = 20_000_000  # bytes of one attachment
    CONVERSE_ATTACHMENT_COUNT: int = 10  # attachments of one message
    CONVERSE_ATTACHMENT_TYPES: tuple[str, ...] = (
        "image/png",
        "image/jpeg",
        "image/gif",
        "image/webp",
        "application/pdf",
        "text/plain",
        "text/markdown",
        "text/csv",
        "audio/mpeg",
        "audio/wav",
    )

    # The doors.
    CONVERSE_AUTHORIZE: str = "converse.permissions.owner_or_participant"
    CONVERSE_REAUTHORIZE_INTERVAL: float = 60.0  # seconds between two checks of a standing subscription
    CONVERSE_CLIENT_REPLY: str = ""  # how replies that clients ask for are asked for: as reply() does by itself
    CONVERSE_CLIENT_CONVERSATION: str = ""  # how conversations that clients start are started: with owner and title
    CONVERSE_CLIENT_LIST: str = ""  # which conversations a client lists: the user's own, and those shared with them
    CONVERSE_CLIENT_USER: str = ""  # whom a client may share with: any active user, by their username
    CONVERSE_MESSAGE_LIMIT: int = 100_000  # characters of a message that a client sends
    CONVERSE_FRAME_LIMIT: int = 512_000  # bytes of a frame that a client sends
    CONVERSE_FRAME_RATE: float = 20.0  # frames a second and socket, acknowledgements and pings apart
    CONVERSE_SUBSCRIPTION_LIMIT: int = 100  # conversations a socket
    CONVERSE_ALLOWED_ORIGINS: tuple[str, ...] = ()  # besides the hosts of ALLOWED_HOSTS
    CONVERSE_WINDOW: int = 256_000  # bytes sent to a websocket reader ahead of its acknowledgements
    CONVERSE_ACK_TIMEOUT: float = 30.0  # seconds a full window may stand before the socket is closed
    CONVERSE_SSE_HEARTBEAT: float = 15.0  # seconds without an event before a sign of life
    CONVERSE_SSE_RETRY: float = 2.0  # seconds before a reader of server-sent events comes back
    CONVERSE_SSE_LIMIT: int = 4_000_000  # bytes of one response of events; then the reader comes back for more
    CONVERSE_CHAT_SDK: int = 5  # the AI SDK's version of clients that name none
    CONVERSE_CHAT_LIMIT: int = 10_000_000  # bytes of a request to the chat
    CONVERSE_CHAT_REPLAY: float = 60.0  # seconds after its end in which a reply can be resumed

    # Laravel Echo and pusher-js.
    CONVERSE_ECHO_KEY: str = "converse"  # public; the id of the app, too
    CONVERSE_ECHO_SECRET: str = ""  # one made of SECRET_KEY; with one of its own programs of others may publish
    CONVERSE_ECHO_NAMESPACE: str = "App.Events"  # of events: what Echo puts before their names
    CONVERSE_ECHO_ALIASES: bool = False  # whether events are told once more under the original's names

    def __getattribute__(self, name: str) -> Any:
        default = super().__getattribute__(name)
        return getattr(django_settings, name, default) if name.isupper() else default


settings = Settings()
