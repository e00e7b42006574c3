from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from asgiref.sync import sync_to_async

P = ParamSpec("P")
R = TypeVar("R")


def twin(function: Callable[P, R]) -> Callable[P, Coroutine[Any, Any, R]]:
    """Make the asynchronous twin of a function or method that takes several statements: ``async_x = twin(x)``."""

    @wraps(function)
    async def atwin(*args: P.args, **kwargs: P.kwargs) -> R:
        return await sync_to_async(function)(*args, **kwargs)

    atwin.__name__ = f"a{function.__name__}"
    atwin.__qualname__ = atwin.__qualname__.replace(function.__name__, atwin.__name__)
    atwin.__doc__ = f"See {function.__name__}()."
    return atwin
