from __future__ import annotations

from typing import TYPE_CHECKING

from django.contrib import admin

from example_project.chat.models import Booking, Room

if TYPE_CHECKING:
    BookingModelAdmin = admin.ModelAdmin[Booking]
    RoomModelAdmin = admin.ModelAdmin[Room]
else:
    BookingModelAdmin = RoomModelAdmin = admin.ModelAdmin


@admin.register(Room)
class RoomAdmin(RoomModelAdmin):
    list_display = ("name", "floor", "seats", "hourly_rate")


@admin.register(Booking)
class BookingAdmin(BookingModelAdmin):
    list_display = ("room", "day", "start", "end", "people", "user")
    list_select_related = ("room", "user")
