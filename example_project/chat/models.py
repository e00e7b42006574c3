"""What the agent works with: meeting rooms, and who has which of them when."""

from __future__ import annotations

from typing import ClassVar

from django.conf import settings
from django.db import models


class Room(models.Model):
    name = models.CharField(max_length=50, unique=True)
    floor = models.PositiveSmallIntegerField()
    seats = models.PositiveSmallIntegerField()
    hourly_rate = models.PositiveSmallIntegerField(help_text="In euros.")

    class Meta:
        ordering: ClassVar = ["hourly_rate", "name"]

    def __str__(self) -> str:
        return self.name


class Booking(models.Model):
    room = models.ForeignKey(Room, models.CASCADE, related_name="bookings")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+")
    day = models.DateField()
    start = models.TimeField()
    end = models.TimeField()
    people = models.PositiveSmallIntegerField()
    call_id = models.CharField(max_length=100, unique=True, help_text="Of the call that booked it: no call does twice.")

    class Meta:
        ordering: ClassVar = ["day", "start"]

    def __str__(self) -> str:
        return f"{self.room}, {self.day} {self.start:%H:%M}-{self.end:%H:%M}"
