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
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from converse.models import Conversation
from example_project.chat.agent import INSTRUCTIONS, how_to_reply

SUGGESTIONS = ["Why is the sky blue?", "Tell me a short story about a lighthouse.", "How do I make a good cup of tea?"]
ERRANDS = [
    "Find a room for 8 people on Friday, 14 to 16.",
    "We are 20 people and need a room tomorrow from 9 to 15.",
    "Book something small: 4 people, Monday, 10:30 to 12.",
]
CLIENTS = {"echo": "Laravel Echo", "events": "EventSource", "usechat": "useChat"}

# The page needs nothing from elsewhere and nothing inline, and never makes HTML of a text.
SECURITY_POLICY = (
    "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)


class Request(HttpRequest):
    user: User  # by login_required


@require_safe
@login_required
def page(request: Request, uuid: UUID | None = None, agent: bool = False) -> HttpResponse:
    conversations = Conversation.objects.for_owner(request.user)
    current = get_object_or_404(conversations, uuid=uuid) if uuid else None
    agent = bool(current.metadata.get("agent")) if current else agent
    alias = settings.CHAT_AGENT_PROVIDER if agent else settings.CONVERSE_DEFAULT_PROVIDER
    model = settings.CONVERSE_PROVIDERS[alias]["OPTIONS"].get("model", alias)
    context = {
        "conversations": conversations[:100],
        "current": current,
        "agent": agent,
        "scripted": alias == "planner",
        "model": model,
        "words": {"empty": "Ask for a meeting room." if agent else f"Ask {model} anything."},
        "notice": "" if agent else settings.CHAT_NOTICE,
        "suggestions": ERRANDS if agent else SUGGESTIONS,
    }
    return TemplateResponse(request, "chat/page.html", context, headers={"Content-Security-Policy": SECURITY_POLICY})


@require_safe
@login_required
def beside(request: Request, uuid: UUID, client: str) -> HttpResponse:
    """Show one conversation twice: by the element, and by a client that was not made for Converse."""
    current = get_object_or_404(Conversation.objects.for_owner(request.user), uuid=uuid)
    context = {"current": current, "client": client, "name": CLIENTS[client]}
    return TemplateResponse(request, "chat/beside.html", context, headers={"Content-Security-Policy": SECURITY_POLICY})


@require_POST
@login_required
def create(request: Request, agent: bool = False) -> HttpResponse:
    """Start a conversation, and have its first question answered where there is one. The page follows the reply."""
    prompt = INSTRUCTIONS.format(today=timezone.localdate()) if agent else settings.CHAT_SYSTEM_PROMPT
    metadata = {"agent": True} if agent else {}
    conversation = Conversation.objects.start(request.user, metadata=metadata, context={"system_prompt": prompt})
    if question := request.POST.get("question", "").strip():
        conversation.reply(question, **how_to_reply(request.user, conversation))
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
