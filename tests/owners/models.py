"""Owners of conversations other than users: one with an integer key, one with a uuid."""

from __future__ import annotations

from uuid import uuid4

from django.db import models

from converse.models import HasConversations


class Team(HasConversations):
    name = models.CharField(max_length=50)

    def __str__(self) -> str:
        return self.name


class Project(HasConversations):
    id = models.UUIDField(primary_key=True, default=uuid4)

    def __str__(self) -> str:
        return str(self.pk)
