"""Django's own protection against requests of other sites, which tells of a refusal as a problem."""

from __future__ import annotations

import logging

from django.http import HttpRequest, HttpResponse
from django.middleware.csrf import CsrfViewMiddleware
from django.utils.log import log_response

from converse.views.problems import problem

logger = logging.getLogger("django.security.csrf")


class Guard(CsrfViewMiddleware):
    """The middleware, asked by a view."""

    def _reject(self, request: HttpRequest, reason: str) -> HttpResponse:
        response = problem(403, "csrf", reason)
        log_response("Forbidden (%s): %s", reason, request.path, response=response, request=request, logger=logger)
        return response


def refused(request: HttpRequest) -> HttpResponse | None:
    """Give the answer to a request that another site may have made; None where it is one of ours."""
    guard = Guard(lambda request: HttpResponse())
    guard.process_request(request)
    answer: HttpResponse | None = guard.process_view(request, HttpResponse, (), {})
    return answer
