from __future__ import annotations

from django.urls import path

from example_project.chat import views

app_name = "chat"
urlpatterns = [
    path("", views.page, name="home"),
    path("new/", views.create, name="create"),
    path("c/<uuid:uuid>/", views.page, name="conversation"),
    path("c/<uuid:uuid>/delete/", views.delete, name="delete"),
]
