"""What querysets of several models do alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper


def is_among(connection: BaseDatabaseWrapper, ids: Collection[int]) -> tuple[str, list[Any]]:
    """Give a condition on the key, and its parameters: one array where the database has any."""
    if connection.vendor == "postgresql":
        return "id = ANY(%s::bigint[])", [list(ids)]
    return f"id IN ({', '.join(['%s'] * len(ids)) or 'NULL'})", list(ids)


def delete_each(rows: models.QuerySet[Any]) -> tuple[int, dict[str, int]]:
    counts: Counter[str] = Counter()
    for row in rows:
        counts.update(row.delete()[1])
    return counts.total(), dict(counts)
