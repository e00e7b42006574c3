"""What the providers over HTTP have in common, whoever's SDK carries the bytes."""

from __future__ import annotations

import ssl
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from functools import cache
from importlib import import_module
from typing import Any, ClassVar, Protocol

import httpx2

from converse.choices import ErrorType
from converse.deltas import Delta, Finish
from converse.exceptions import ProviderError
from converse.providers.base import Prompt, Provider
from converse.providers.failures import failure, harmless, request_id, secrets_of

CONNECT_TIMEOUT = 5.0  # seconds

# After its finish reason a reply is whole: what such an error cuts off is at most its token counts.
BROKEN_OFF = (ErrorType.TIMEOUT, ErrorType.CONNECTION, ErrorType.TRUNCATED)


class EventStream(AbstractAsyncContextManager["EventStream"], Protocol):
    """An SDK's open stream of parsed events."""

    response: httpx2.Response

    def __aiter__(self) -> AsyncIterator[object]: ...


class Reading(ABC):
    """What is known of one reply; makes deltas of the provider's events."""

    def __init__(self) -> None:
        self.request_id = ""
        self.secrets: Sequence[str] = ()
        self.finish: Finish | None = None

    @abstractmethod
    def read(self, event: Any) -> Iterator[Delta]:
        """Yield the deltas of an event, except the finish, which is kept for the end."""


class HTTPProvider(Provider):
    """A provider whose SDK opens a stream of events and raises exceptions of its own."""

    reading: ClassVar[type[Reading]]
    timeout_error: type[Exception]
    connection_error: type[Exception]

    def __init__(
        self,
        *,
        model: str = "",
        api_key: str | None = None,
        base_url: str | None = None,
        timeout: float = 600.0,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
        client: Any = None,
    ) -> None:
        self.model = model
        self.api_key = api_key
        self.base_url = base_url
        self.timeout = timeout  # seconds of silence
        self.headers = dict(headers or {})
        self.params = dict(params or {})
        self.client = client  # the SDK's, ready made; whoever made it closes it
        self.secrets = secrets_of(api_key, self.headers)

    @abstractmethod
    def new_client(self) -> AbstractAsyncContextManager[Any]:
        """Return the SDK's client."""

    @abstractmethod
    async def send(self, client: Any, prompt: Prompt) -> EventStream:
        """Ask for a stream of events and return it once the service has accepted."""

    async def astream(self, prompt: Prompt) -> AsyncGenerator[Delta, None]:
        reading, error = self.reading(), None
        reading.secrets = self.secrets
        async with aclosing(self._read(prompt, reading)) as deltas:
            try:
                async for delta in deltas:
                    yield delta
            except ProviderError as exc:
                error = exc
        if reading.finish:
            yield reading.finish
        if error and not (reading.finish and error.type in BROKEN_OFF):
            raise error

    @asynccontextmanager
    async def _open(self, prompt: Prompt) -> AsyncIterator[EventStream]:
        async with AsyncExitStack() as stack:
            client = self.client or await stack.enter_async_context(self.new_client())
            yield await stack.enter_async_context(await self.send(client, prompt))

    async def _read(self, prompt: Prompt, reading: Reading) -> AsyncGenerator[Delta, None]:
        response = None
        try:
            async with self._open(prompt) as stream:
                response = stream.response
                reading.request_id = request_id(response.headers)
                async for event in stream:
                    for delta in reading.read(event):
                        yield delta
        except ProviderError:
            raise
        except Exception as exc:
            error = failure(
                exc,
                response=response,
                timeout=self.timeout_error,
                connection=self.connection_error,
                secrets=self.secrets,
            )
            raise error from harmless(exc, self.secrets)
        if not reading.finish:
            raise ProviderError(
                "The response ended without a finish reason.",
                type=ErrorType.TRUNCATED,
                retryable=True,
                request_id=reading.request_id,
            )

    def client_options(self) -> dict[str, Any]:
        """Return what every SDK's client is made with; retrying is the caller's business."""
        # The environment's key belongs to the SDK's own address and must not go to another.
        api_key = self.api_key or ("none" if self.base_url else None)
        return {
            "api_key": api_key,
            "base_url": self.base_url,
            "default_headers": self.headers,
            "max_retries": 0,
            "timeout": httpx2.Timeout(self.timeout, connect=min(self.timeout, CONNECT_TIMEOUT)),
        }


class SDKProvider(HTTPProvider):
    """A provider whose maker's own SDK carries the bytes.

    The SDK is imported with the first provider that is made: it takes seconds, and no command is to wait for it.
    """

    package: ClassVar[str]
    client_class: ClassVar[str]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.sdk: Any = import_module(self.package)
        self.timeout_error = self.sdk.APITimeoutError
        self.connection_error = self.sdk.APIConnectionError

    def new_client(self) -> AbstractAsyncContextManager[Any]:
        http_client = self.sdk.DefaultAsyncHttpxClient(verify=certificates())
        client: AbstractAsyncContextManager[Any] = getattr(self.sdk, self.client_class)(
            http_client=http_client, **self.client_options()
        )
        return client


@cache
def certificates() -> ssl.SSLContext:
    """Return the trusted certificates, read once: each time costs the event loop tens of milliseconds."""
    return httpx2.create_ssl_context()
