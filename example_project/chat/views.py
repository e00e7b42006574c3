from __future__ import annotations

from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib.auth import login
from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import User
from django.contrib.auth.views import LoginView
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.template.response import TemplateResponse
from django.views.decorators.http import require_POST, require_safe

from converse.models import Conversation

SUGGESTIONS = ["Why is the sky blue?", "Tell me a short story about a lighthouse.", "How do I make a good cup of tea?"]

# The page needs nothing from elsewhere and nothing inline.
SECURITY_POLICY = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"


class Request(HttpRequest):
    user: User  # by login_required


@require_safe
@login_required
def page(request: Request, uuid: UUID | None = None) -> HttpResponse:
    conversations = Conversation.objects.for_owner(request.user)
    alias = settings.CONVERSE_DEFAULT_PROVIDER
    context = {
        "conversations": conversations[:100],
        "current": get_object_or_404(conversations, uuid=uuid) if uuid else None,
        "model": settings.CONVERSE_PROVIDERS[alias]["OPTIONS"].get("model", alias),
        "notice": settings.CHAT_NOTICE,
        "suggestions": SUGGESTIONS,
    }
    return TemplateResponse(request, "chat/page.html", context, headers={"Content-Security-Policy": SECURITY_POLICY})


@require_POST
@login_required
def create(request: Request) -> HttpResponse:
    """Start a conversation, and have its first question answered where there is one. The page follows the reply."""
    conversation = Conversation.objects.start(request.user, context={"system_prompt": settings.CHAT_SYSTEM_PROMPT})
    if question := request.POST.get("question", "").strip():
        conversation.reply(question)
    return redirect("chat:conversation", conversation.uuid)


@require_POST
@login_required
def delete(request: Request, uuid: UUID) -> HttpResponse:
    get_object_or_404(Conversation.objects.for_owner(request.user), uuid=uuid).delete()
    return redirect("chat:home")


class SignIn(LoginView):
    """The ordinary sign-in page. The demo command lets the person at this computer in without asking."""

    template_name = "chat/sign_in.html"

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        name = settings.CHAT_SIGN_IN_AS
        if name and request.META["REMOTE_ADDR"] == "127.0.0.1":
            login(request, User.objects.get(username=name))
            return redirect(self.get_success_url())
        return super().get(request, *args, **kwargs)
