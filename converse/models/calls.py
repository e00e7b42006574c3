from __future__ import annotations

from typing import Any, ClassVar

from django.contrib.contenttypes.fields import GenericForeignKey
from django.contrib.contenttypes.models import ContentType
from django.db import models
from django.db.models.deletion import Collector
from django.utils.translation import gettext_lazy as _

from converse.accounting import CallQuerySet
from converse.choices import CallOutcome, ErrorType
from converse.models.conversations import Conversation
from converse.models.messages import Message


def keep_account(collector: Collector, field: Any, calls: Any, using: str) -> None:
    """Let a call outlive its message, without the one text in it that may quote the message."""
    # In this order: once its message is null a call is not found by it any more.
    collector.add_field_update(ProviderCall._meta.get_field("error_detail"), "", calls)
    collector.add_field_update(field, None, calls)


keep_account.lazy_sub_objs = True  # type: ignore[attr-defined]


class ProviderCall(models.Model):
    """One attempt at a provider, also a failed, retried or cancelled one: what it took and what it cost.

    It outlives its message and its conversation, so that a purge does not change what was spent, and has the owner at
    the time of the call.
    """

    message = models.ForeignKey(
        Message, keep_account, null=True, blank=True, related_name="calls", db_index=False, verbose_name=_("message")
    )
    # Without a constraint, whose lock on the conversation would stand in the way of whoever writes to it.
    conversation = models.ForeignKey(
        Conversation,
        models.SET_NULL,
        null=True,
        blank=True,
        related_name="calls",
        db_constraint=False,
        verbose_name=_("conversation"),
    )
    owner_type = models.ForeignKey(
        ContentType,
        models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
        db_index=False,
        verbose_name=_("owner type"),
    )
    owner_id = models.CharField(_("owner id"), max_length=64, null=True, blank=True)  # noqa: DJ001 - as in Conversation
    owner = GenericForeignKey("owner_type", "owner_id", for_concrete_model=False)
    number = models.PositiveIntegerField(_("number"), help_text=_("Of this message's calls, from 1."))
    provider = models.CharField(_("provider"), max_length=100, help_text=_("Its alias."))
    model = models.CharField(_("model"), max_length=200, blank=True, default="")
    request_id = models.CharField(_("request id"), max_length=200, blank=True, default="")
    outcome = models.CharField(_("outcome"), max_length=20, choices=CallOutcome, default=CallOutcome.RUNNING)
    finish_reason = models.CharField(_("finish reason"), max_length=50, blank=True, default="")
    error_type = models.CharField(_("error type"), max_length=50, choices=ErrorType, blank=True, default="")
    error_detail = models.TextField(_("error detail"), blank=True, default="", help_text=_("For the admin only."))
    input_tokens = models.PositiveIntegerField(
        _("input tokens"), null=True, blank=True, help_text=_("Without those read from or written to a cache.")
    )
    cached_input_tokens = models.PositiveIntegerField(_("cached input tokens"), null=True, blank=True)
    cache_write_tokens = models.PositiveIntegerField(_("cache write tokens"), null=True, blank=True)
    output_tokens = models.PositiveIntegerField(_("output tokens"), null=True, blank=True)
    reasoning_tokens = models.PositiveIntegerField(_("reasoning tokens"), null=True, blank=True)
    usage = models.JSONField(_("usage"), default=dict, blank=True, help_text=_("As the provider wrote it."))
    cost = models.DecimalField(
        _("cost"),
        max_digits=18,
        decimal_places=9,
        null=True,
        blank=True,
        help_text=_("In US dollars at the prices of its day; empty where a price or count is not known."),
    )
    started_at = models.DateTimeField(_("started at"))
    first_delta_at = models.DateTimeField(_("first delta at"), null=True, blank=True)
    finished_at = models.DateTimeField(_("finished at"), null=True, blank=True)

    objects = CallQuerySet.as_manager()

    class Meta:
        verbose_name = _("provider call")
        verbose_name_plural = _("provider calls")
        ordering: ClassVar = ["message_id", "number"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["message", "number"], name="converse_call_unique_number"),
        ]
        indexes: ClassVar = [
            models.Index(fields=["started_at"], name="converse_call_started"),
            models.Index(fields=["owner_type", "owner_id", "started_at"], name="converse_call_owner"),
            models.Index(fields=["outcome", "started_at"], name="converse_call_outcome"),
        ]

    def __str__(self) -> str:
        return f"{self.provider} {self.model} ({self.get_outcome_display()})"
