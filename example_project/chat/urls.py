from __future__ import annotations

from django.urls import path

from example_project.chat import views

app_name = "chat"
urlpatterns = [
    path("", views.page, name="home"),
    path("agent/", views.page, {"agent": True}, name="agent"),
    path("new/", views.create, name="create"),
    path("agent/new/", views.create, {"agent": True}, name="create-agent"),
    path("c/<uuid:uuid>/", views.page, name="conversation"),
    path("c/<uuid:uuid>/echo/", views.beside, {"client": "echo"}, name="echo"),
    path("c/<uuid:uuid>/events/", views.beside, {"client": "events"}, name="events"),
    path("c/<uuid:uuid>/usechat/", views.beside, {"client": "usechat"}, name="usechat"),
    path("c/<uuid:uuid>/delete/", views.delete, name="delete"),
]
