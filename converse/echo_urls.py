"""The HTTP doors of Laravel Echo and pusher-js, at the paths that they ask: include them at the site's root."""

from __future__ import annotations

from django.urls import path

from converse.views import echo

app_name = "converse_echo"
urlpatterns = [
    path("broadcasting/auth", echo.channel_auth, name="auth"),
    path("pusher/auth", echo.channel_auth, name="pusher-auth"),
    path("broadcasting/user-auth", echo.user_auth, name="user-auth"),
    path("pusher/user-auth", echo.user_auth, name="pusher-user-auth"),
    path("apps/<str:app>/events", echo.publish, name="publish"),
    path("apps/<str:app>/batch_events", echo.publish_batch, name="publish-batch"),
]
