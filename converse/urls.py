from __future__ import annotations

from django.urls import path

from converse import views

app_name = "converse"
urlpatterns = [
    path("conversations/<uuid:uuid>/log/", views.log, name="log"),
]
