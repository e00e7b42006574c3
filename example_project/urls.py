from __future__ import annotations

from django.contrib import admin
from django.urls import include, path

from example_project.chat.views import SignIn

urlpatterns = [
    path("", include("example_project.chat.urls")),
    path("sign-in/", SignIn.as_view(), name="sign-in"),
    path("converse/", include("converse.urls")),
    path("", include("converse.echo_urls")),
    path("admin/", admin.site.urls),
]
