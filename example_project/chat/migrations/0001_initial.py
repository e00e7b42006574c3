from __future__ import annotations

from typing import Any

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

ROOMS = (  # name, floor, seats, euros an hour
    ("Aquarium", 1, 6, 18),
    ("Library", 2, 10, 30),
    ("Attic", 4, 12, 36),
    ("Greenhouse", 0, 24, 55),
)


def add_rooms(apps: Any, schema_editor: Any) -> None:
    """Give the agent something to look up."""
    room = apps.get_model("chat", "Room").objects
    for name, floor, seats, hourly_rate in ROOMS:
        room.create(name=name, floor=floor, seats=seats, hourly_rate=hourly_rate)


class Migration(migrations.Migration):
    initial = True

    dependencies = [
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="Room",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("name", models.CharField(max_length=50, unique=True)),
                ("floor", models.PositiveSmallIntegerField()),
                ("seats", models.PositiveSmallIntegerField()),
                ("hourly_rate", models.PositiveSmallIntegerField(help_text="In euros.")),
            ],
            options={
                "ordering": ["hourly_rate", "name"],
            },
        ),
        migrations.CreateModel(
            name="Booking",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("day", models.DateField()),
                ("start", models.TimeField()),
                ("end", models.TimeField()),
                ("people", models.PositiveSmallIntegerField()),
                (
                    "call_id",
                    models.CharField(
                        help_text="Of the call that booked it: no call does twice.", max_length=100, unique=True
                    ),
                ),
                (
                    "user",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="+", to=settings.AUTH_USER_MODEL
                    ),
                ),
                (
                    "room",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="bookings", to="chat.room"
                    ),
                ),
            ],
            options={
                "ordering": ["day", "start"],
            },
        ),
        migrations.RunPython(add_rooms, migrations.RunPython.noop),
    ]
