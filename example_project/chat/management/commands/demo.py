from __future__ import annotations

import asyncio
import os
import socket
from contextlib import closing
from typing import Any

from daphne.endpoints import build_endpoint_description_strings  # type: ignore[import-untyped]
from daphne.server import Server  # type: ignore[import-untyped]
from django.conf import settings
from django.contrib.auth.models import User
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.management import BaseCommand, CommandError, CommandParser, call_command

from converse import loops
from converse.choices import Status
from converse.models import Message
from example_project.asgi import application
from example_project.chat.local_model import LocalModel, Unavailable
from example_project.kept import kept

HOST = "127.0.0.1"  # and nowhere else: whoever opens the page is signed in
NAME = "demo"
KEYS = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY"}


class Command(BaseCommand):
    help = "Serve the example on this computer: a chat with a real model. Nothing has to be prepared; Ctrl-C ends it."
    requires_migrations_checks = False

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--port", type=int, default=8000, help="default: %(default)s")
        parser.add_argument(
            "--provider",
            choices=["auto", "local", "openai", "anthropic", "echo"],
            default="auto",
            help="who answers; auto takes a service whose key is in the environment, else a small model run here",
        )

    def handle(self, *, port: int, provider: str, **options: Any) -> None:
        self.check_port(port)
        call_command("migrate", verbosity=0)
        password = self.prepare_user()
        model = LocalModel(settings.DATA_DIR / "model")
        try:
            self.choose(provider, model)
            self.serve(port, password)
        finally:
            for message in Message.objects.open().exclude(status=Status.WAITING):  # for a person: that outlives us
                message.stop()
            loops.finish()  # what was stopped notes what it took so far
            model.stop()

    def check_port(self, port: int) -> None:
        with closing(socket.socket()) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError as exc:
                advice = f"Try another: python manage.py demo --port {port + 1}"
                raise CommandError(f"Port {port} is taken. {advice}") from exc

    def prepare_user(self) -> str:
        """See to it that there is a user who may do everything, whose password stays the same."""
        password = kept(settings.DATA_DIR / "password")
        user, _ = User.objects.get_or_create(username=NAME, defaults={"is_staff": True, "is_superuser": True})
        if not user.check_password(password):
            user.set_password(password)
            user.save()
        settings.CHAT_SIGN_IN_AS = NAME
        return password

    def choose(self, provider: str, model: LocalModel) -> None:
        if provider == "auto":
            provider = next((alias for alias, key in KEYS.items() if os.environ.get(key)), "local")
        if provider in KEYS and not os.environ.get(KEYS[provider]):
            raise CommandError(f"Set {KEYS[provider]} to have {provider} answer.")
        if provider in KEYS:
            settings.CHAT_AGENT_PROVIDER = provider
        if provider == "local":
            provider = self.start(model)
        settings.CONVERSE_DEFAULT_PROVIDER = provider

    def start(self, model: LocalModel) -> str:
        """Start the local model; where there is none, the echo takes over and says why."""
        try:
            if not model.is_installed:
                self.stdout.write("Fetching a small language model (SmolLM2-135M and llama.cpp, 130 MB), once:")
                self.stdout.flush()
                model.install()
            model.start()
        except Unavailable as exc:
            settings.CHAT_NOTICE = f"No model answers here, only an echo of what you say: {exc}."
            self.stderr.write(self.style.WARNING(settings.CHAT_NOTICE))
            return "echo"
        settings.CONVERSE_PROVIDERS["local"]["OPTIONS"].update(base_url=model.url, api_key=model.key)
        # A proxy has no way to this computer.
        os.environ["NO_PROXY"] = os.environ["no_proxy"] = ",".join(filter(None, [os.environ.get("NO_PROXY"), HOST]))
        return "local"

    def serve(self, port: int, password: str) -> None:
        Server(
            ASGIStaticFilesHandler(application),  # type: ignore[arg-type]
            build_endpoint_description_strings(host=HOST, port=port),
            ready_callable=lambda: self.welcome(port, password),
        ).run()
        self.settle()
        self.stdout.write("Stopped.")

    def settle(self) -> None:
        """End what Daphne leaves open when a browser still holds a connection: Python 3.11 would crash over it."""
        loop = asyncio.get_event_loop()
        if tasks := asyncio.all_tasks(loop):
            for task in tasks:
                task.cancel()
            loop.run_until_complete(asyncio.wait(tasks, timeout=5))

    def welcome(self, port: int, password: str) -> None:
        alias, agent = settings.CONVERSE_DEFAULT_PROVIDER, settings.CHAT_AGENT_PROVIDER
        address = f"http://{HOST}:{port}/"
        lines = {
            "Open": self.style.SUCCESS(address),
            "Agent": f"{address}agent/ books rooms, {'by a script' if agent == 'planner' else f'with {agent}'}",
            "Admin": f"{address}admin/",
            "Signed in as": f"{NAME}, password {password}",
            "Answering": settings.CONVERSE_PROVIDERS[alias]["OPTIONS"].get("model", alias),
            "Files": settings.DATA_DIR,
        }
        self.stdout.write("".join(f"\n  {name:<12}  {value}" for name, value in lines.items()))
        self.stdout.write("\nCtrl-C stops.")
        self.stdout.flush()
