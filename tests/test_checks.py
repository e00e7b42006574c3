from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from unittest.mock import patch

from django.core import checks
from django.db import connection
from django.test import SimpleTestCase, override_settings

from converse.checks import DEFAULTS, SETTINGS, check_deployment, check_installation, check_settings
from converse.providers import Provider

ROOT = Path(__file__).parent.parent
ECHO = "converse.providers.echo.EchoProvider"
OPENAI = "converse.providers.openai.OpenAIProvider"
ANTHROPIC = "converse.providers.anthropic.AnthropicProvider"
GEMINI = "converse.providers.gemini.GeminiProvider"
REDIS = "channels_redis.core.RedisChannelLayer"


class PlainProvider(Provider):
    """Takes nothing."""

    async def astream(self, prompt):
        return
        yield


class DemandingProvider(PlainProvider):
    def __init__(self, model, /, key, *rest, region="eu"):
        pass


class OpenProvider(PlainProvider):
    def __init__(self, **anything):
        pass


def factory(**options):
    return PlainProvider()


def found(check, **settings):
    with override_settings(**settings):
        return {message.id.removeprefix("converse."): message for message in check(app_configs=None)}


def only(check, **settings):
    """Give the one message of a check, as text, with its hint."""
    with override_settings(**settings):
        [message] = check(app_configs=None)
    return f"{message.id} {message.msg} | {message.hint}"


def provider(**config):
    return {"default": {"BACKEND": ECHO}, "mine": config}


class SettingTests(SimpleTestCase):
    def test_the_defaults_are_fine(self):
        assert found(check_settings) == {}
        for name, (_, rule) in SETTINGS.items():
            with override_settings(CONVERSE_PROVIDERS={}):
                assert list(rule(DEFAULTS[name])) == [], name

    def test_every_setting_has_a_check_with_an_id_of_its_own(self):
        assert set(SETTINGS) == set(DEFAULTS)
        assert len({number for number, _ in SETTINGS.values()}) == len(SETTINGS)

    def test_what_a_setting_cannot_be_is_refused(self):
        not_numbers = ("1", None, True, float("nan"), float("inf"), -1)
        texts = ("text", [""], [1], None, {"a": 1})
        for names, values in (
            ("IDLE_TIMEOUT TOTAL_TIMEOUT LEASE STALE_AFTER SWEEP_INTERVAL FRAME_RATE ACK_TIMEOUT", (*not_numbers, 0)),
            ("RETRY_DELAY FLUSH_INTERVAL REAUTHORIZE_INTERVAL", not_numbers),
            ("JOURNAL_LIMIT EVENT_LIMIT SNAPSHOT_LIMIT MESSAGE_LIMIT FRAME_LIMIT WINDOW", (*not_numbers, 0, 1.5)),
            ("SUBSCRIPTION_LIMIT OPEN_LIMIT ATTACHMENT_LIMIT", (*not_numbers, 0, 1.5)),
            ("RETRIES ATTACHMENT_COUNT", (*not_numbers, 1.5)),
            ("PUBLIC_METADATA ALLOWED_ORIGINS CLIENT_PROVIDERS", texts),
            ("ATTACHMENT_TYPES", (*texts, ["png"], ["image/*"], ["IMAGE/PNG"], ["text/plain; charset=utf-8"])),
            ("ATTACHMENT_STORAGE", ("other", None, [])),
            ("POLICY", ("often", None, [])),
            ("CONTEXT_WINDOW", (None, 5, [], {"token": 5}, {"tokens": 0}, {"messages": "5"})),
            ("TOKEN_COUNTER SUMMARIZER TITLER", (None, 5, "nodots", "converse.missing", "converse.conf.settings")),
            ("TITLE_PROVIDER", ("other", None)),
            ("CHANNEL_LAYER", (None, [], 1)),
        ):
            for name in names.split():
                name = f"CONVERSE_{name}"
                for value in values:
                    messages = found(check_settings, **{name: value})
                    assert list(messages) == [SETTINGS[name][0]], (name, value)
                    [message] = messages.values()
                    assert message.msg.startswith(f"{name} ")
                    assert message.hint
                    assert message.level == checks.ERROR

    def test_the_example_in_a_hint_may_be_copied(self):
        assert 'such as ["image/png"]' in only(check_settings, CONVERSE_ATTACHMENT_TYPES="image/png")

    def test_what_a_setting_may_be_is_taken(self):
        for name, values in {
            "CONVERSE_LEASE": (1, 0.5),
            "CONVERSE_RETRIES": (0, 3),
            "CONVERSE_FLUSH_INTERVAL": (0, 0.1),
            "CONVERSE_PUBLIC_METADATA": ((), ["a"], {"a"}),
            "CONVERSE_POLICY": ("queue",),
            "CONVERSE_ATTACHMENT_COUNT": (0,),
            "CONVERSE_ATTACHMENT_TYPES": ((), ["image/svg+xml"]),
            "CONVERSE_CLIENT_PROVIDERS": (["default"],),
            "CONVERSE_RUNNER": ("converse.runners.ImmediateRunner",),
            "CONVERSE_AUTHORIZE": ("tests.test_checks.factory",),
            "CONVERSE_CONTEXT_WINDOW": ({"tokens": 8000}, {"messages": 20}, {"tokens": 1, "messages": 1}),
            "CONVERSE_TOKEN_COUNTER": ("builtins.len",),
            "CONVERSE_SUMMARIZER": ("", "tests.test_checks.factory"),
            "CONVERSE_TITLER": ("", "converse.titles.first_words", "converse.titles.ask"),
            "CONVERSE_TITLE_PROVIDER": ("", "default"),
        }.items():
            for value in values:
                assert found(check_settings, **{name: value}) == {}, (name, value)

    def test_what_cannot_be_imported_is_named(self):
        for name, number in (("CONVERSE_RUNNER", "E003"), ("CONVERSE_AUTHORIZE", "E018")):
            for value in ("converse.missing.Thing", "converse.runners.Missing", "nodots", None, 5):
                text = only(check_settings, **{name: value})
                assert text.startswith(f"converse.{number} {name} is {value!r}, which cannot be imported")
                assert "by its dotted path" in text

    def test_attachments_need_a_storage_that_can_be_had(self):
        text = only(check_settings, CONVERSE_ATTACHMENT_STORAGE="private")
        assert text == (
            "converse.E029 CONVERSE_ATTACHMENT_STORAGE names 'private', which is not in STORAGES. | "
            "Add it there, or remove the setting to have the default."
        )

    def test_what_is_imported_must_be_usable(self):
        assert "which is not a class with start()" in only(check_settings, CONVERSE_RUNNER="converse.conf.settings")
        assert "which is not a function" in only(check_settings, CONVERSE_AUTHORIZE="converse.conf.settings")

    def test_a_misspelt_setting_is_named_with_the_nearest(self):
        text = only(check_settings, CONVERSE_POLCY="queue")
        assert text == "converse.W001 There is no setting CONVERSE_POLCY. | Did you mean CONVERSE_POLICY?"
        for slip, meant in (
            ("TITLE", "TITLER"),
            ("TOOLS_TIMEOUT", "TOOL_TIMEOUT"),
            ("RETRY_LIMIT", "RETRY_AFTER_LIMIT"),
            ("ATTACHMENTS_LIMIT", "ATTACHMENT_LIMIT"),
        ):
            assert f"Did you mean CONVERSE_{meant}?" in only(check_settings, **{f"CONVERSE_{slip}": 1}), slip
        assert "Remove it." in only(check_settings, CONVERSE_XYZZY_PLUGH_FROTZ_GNUSTO=1)


class ProviderTests(SimpleTestCase):
    def problem(self, **config):
        text = only(check_settings, CONVERSE_PROVIDERS=provider(**config))
        assert text.startswith("converse.E001 CONVERSE_PROVIDERS['mine']: "), text
        return text

    def fine(self, **config):
        assert found(check_settings, CONVERSE_PROVIDERS=provider(**config)) == {}

    def test_it_must_be_a_dict_of_dicts(self):
        text = only(check_settings, CONVERSE_PROVIDERS=["sk-secret"])
        assert "CONVERSE_PROVIDERS must be a dict, not a list." in text
        assert "must be a dict with a BACKEND" in self.problem()
        assert "must be a dict with a BACKEND" in self.problem(BACKEND=PlainProvider)
        text = only(check_settings, CONVERSE_PROVIDERS={"default": ECHO})
        assert "must be a dict with a BACKEND" in text
        assert "OPTIONS must be a dict, not a list." in self.problem(BACKEND=ECHO, OPTIONS=["sk-secret"])
        assert "'api_key' is not known" in self.problem(BACKEND=ECHO, api_key="sk-secret")

    def test_the_backend_must_be_an_importable_provider(self):
        assert "cannot be imported" in self.problem(BACKEND="converse.providers.missing.Provider")
        assert "Correct the dotted path" in self.problem(BACKEND="converse.providers.echo.Missing")
        assert "converse.conf.Settings is not a Provider" in self.problem(BACKEND="converse.conf.Settings")
        assert "converse.conf.settings is not a Provider" in self.problem(BACKEND="converse.conf.settings")
        self.fine(BACKEND="tests.test_checks.factory", OPTIONS={"anything": "goes"})

    def test_its_fallbacks_are_aliases_in_order(self):
        self.fine(BACKEND=ECHO, FALLBACKS=["default"])
        text = self.problem(BACKEND=ECHO, FALLBACKS=["default", "other"])
        assert "['mine']: FALLBACKS names 'other', which is not in CONVERSE_PROVIDERS." in text
        for value in ("default", [1], {"default"}, None):
            assert "FALLBACKS must be a list of aliases." in self.problem(BACKEND=ECHO, FALLBACKS=value)
        assert "['mine']: FALLBACKS names 'mine' itself." in self.problem(BACKEND=ECHO, FALLBACKS=["default", "mine"])

    def test_its_window_is_one(self):
        for window in ({}, {"tokens": 8000}):
            self.fine(BACKEND=ECHO, WINDOW=window)
        text = self.problem(BACKEND=ECHO, WINDOW=20)
        assert "WINDOW must be a dict with tokens, messages or both, not 20. | Such as" in text
        assert "WINDOW tokens must be a whole number from 1" in self.problem(BACKEND=ECHO, WINDOW={"tokens": 0})

    def test_a_missing_sdk_comes_with_the_way_to_install_it(self):
        for package, backend in (("openai", OPENAI), ("anthropic", ANTHROPIC)):
            with patch.dict(sys.modules, {package: None}):
                text = self.problem(BACKEND=backend)
            assert f"needs the package {package}." in text
            assert f"pip install 'django-converse[{package}]'" in text
        with patch.dict(sys.modules, {"httpx2": None, "converse.providers.gemini": None}):
            del sys.modules["converse.providers.gemini"]
            assert "pip install 'django-converse[gemini]'" in self.problem(BACKEND=GEMINI)

    def test_to_check_a_provider_its_sdk_is_not_imported(self):
        code = (
            "import django; django.setup(); from django.core.management import call_command; call_command('check');"
            "import sys; sys.exit(bool({'openai', 'anthropic'} & set(sys.modules)))"
        )
        environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "example_project.settings"}
        assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0

    def test_options_must_be_those_of_the_constructor(self):
        self.fine(BACKEND=ECHO, OPTIONS={"delay": 1})
        self.fine(BACKEND="tests.test_checks.PlainProvider")
        self.fine(BACKEND="tests.test_checks.OpenProvider", OPTIONS={"anything": "goes"})
        self.fine(BACKEND=OPENAI, OPTIONS={"model": "m", "max_tokens": 1, "base_url": "http://localhost"})
        text = self.problem(BACKEND=OPENAI, OPTIONS={"api_kee": "sk-secret"})
        assert "OpenAIProvider takes no option 'api_kee'. | Did you mean api_key?" in text
        assert "sk-secret" not in text
        text = self.problem(BACKEND="tests.test_checks.PlainProvider", OPTIONS={"model": "m"})
        assert "PlainProvider takes no option 'model'. | Remove it." in text
        text = self.problem(BACKEND="tests.test_checks.DemandingProvider", OPTIONS={"region": "us"})
        assert "DemandingProvider needs the option 'key'." in text

    def test_the_default_must_be_one_of_them(self):
        text = only(check_settings, CONVERSE_DEFAULT_PROVIDER="other")
        assert text.startswith(
            "converse.E002 CONVERSE_DEFAULT_PROVIDER names 'other', which is not in CONVERSE_PROVIDERS."
        )
        assert "'default'" in text
        assert found(check_settings, CONVERSE_PROVIDERS={}, CONVERSE_DEFAULT_PROVIDER="other") == {}

    def test_what_clients_may_ask_for_must_be_among_them(self):
        text = only(check_settings, CONVERSE_CLIENT_PROVIDERS=["default", "fast"])
        assert text.startswith("converse.E027 CONVERSE_CLIENT_PROVIDERS names 'fast'")
        text = only(check_settings, CONVERSE_PROVIDERS={}, CONVERSE_CLIENT_PROVIDERS=["fast"])
        assert "has nothing" in text


class InstallationTests(SimpleTestCase):
    def test_what_the_tests_run_on_is_fine(self):
        assert found(check_installation) == {}

    def test_the_apps_it_stands_on_must_be_there(self):
        with patch("converse.checks.surroundings.apps.is_installed", side_effect=lambda name: name != "channels"):
            text = only(check_installation)
        assert text.startswith("converse.E101 channels is not in INSTALLED_APPS.")

    def test_without_a_channel_layer_readers_poll(self):
        for settings in (
            {"CONVERSE_CHANNEL_LAYER": "chat"},
            {"CHANNEL_LAYERS": {}},
            {"CHANNEL_LAYERS": {"default": {}}},
        ):
            text = only(check_installation, **settings)
            assert text.startswith("converse.W002 CHANNEL_LAYERS has no ")
        with override_settings():
            from django.conf import settings

            del settings.CHANNEL_LAYERS
            assert only(check_installation).startswith("converse.W002")

    def test_an_alias_that_is_no_text_is_complained_of_once(self):
        assert found(check_installation, CONVERSE_CHANNEL_LAYER=[]) == {}
        assert "W101" not in found(check_deployment, CONVERSE_CHANNEL_LAYER=[])

    def test_the_channel_layer_must_be_importable(self):
        text = only(check_settings, CHANNEL_LAYERS={"default": {"BACKEND": "channels_rabbit.Layer"}})
        assert "converse.E013 CONVERSE_CHANNEL_LAYER leads to a BACKEND that is 'channels_rabbit.Layer'" in text
        assert "django-converse[redis]" in text
        assert found(check_settings, CHANNEL_LAYERS={}) == {}

    def test_runserver_needs_the_asgi_application(self):
        for value in (None, ""):
            assert only(check_installation, ASGI_APPLICATION=value).startswith("converse.W003")
        with override_settings():
            from django.conf import settings

            del settings.ASGI_APPLICATION
            assert only(check_installation).startswith("converse.W003")

    def test_an_old_daphne_is_complained_of(self):
        for version, text in (("4.2.1", "Daphne 4.2.1"), ("4.1.0", "CVE-2026-44545"), ("3.0", "daphne>=4.2.2")):
            with patch("converse.checks.surroundings.metadata.version", return_value=version):
                message = only(check_installation)
            assert message.startswith("converse.W004")
            assert text in message
        for version in ("4.2.2", "4.3.0", "10.0"):
            with patch("converse.checks.surroundings.metadata.version", return_value=version):
                assert found(check_installation) == {}
        with patch("converse.checks.surroundings.metadata.version", side_effect=metadata.PackageNotFoundError):
            assert found(check_installation) == {}

    def test_sqlite_must_begin_its_transactions_as_a_writer(self):
        with patch.object(connection, "vendor", "sqlite"):
            for options in ({}, {"transaction_mode": None}, {"transaction_mode": "DEFERRED"}):
                with patch.dict(connection.settings_dict, {"OPTIONS": options}):
                    assert only(check_installation).startswith("converse.W005")
            for mode in ("immediate", "EXCLUSIVE"):
                with patch.dict(connection.settings_dict, {"OPTIONS": {"transaction_mode": mode}}):
                    assert found(check_installation) == {}
        with patch.object(connection, "vendor", "postgresql"), patch.dict(connection.settings_dict, {"OPTIONS": {}}):
            assert found(check_installation) == {}


class DeploymentTests(SimpleTestCase):
    MEMORY = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    PUBSUB = {"default": {"BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer"}}

    def found(self, vendor="postgresql", **settings):
        with patch.object(connection, "vendor", vendor):
            return list(found(check_deployment, **{"CHANNEL_LAYERS": self.PUBSUB, **settings}))

    def test_what_is_recommended_is_fine(self):
        assert self.found() == []

    def test_a_layer_in_memory_serves_one_process(self):
        assert self.found(CHANNEL_LAYERS=self.MEMORY) == ["W101"]
        assert self.found(CHANNEL_LAYERS=self.MEMORY, DEBUG=True) == []

    def test_the_core_layer_of_redis_drops_events(self):
        assert self.found(CHANNEL_LAYERS={"default": {"BACKEND": REDIS}}) == ["W102"]

    def test_sqlite_is_for_few(self):
        assert self.found(vendor="sqlite") == ["W103"]

    def test_any_origin_is_too_many(self):
        assert self.found(ALLOWED_HOSTS=["*"]) == ["W104"]
        assert self.found(CONVERSE_ALLOWED_ORIGINS=["*"]) == ["W104"]
        assert self.found(CONVERSE_ALLOWED_ORIGINS=["https://example.com"]) == []

    def test_it_is_asked_on_deployment_only(self):
        assert check_deployment in checks.registry.registry.get_checks(include_deployment_checks=True)
        always = checks.registry.registry.get_checks()
        assert check_deployment not in always
        assert {check_settings, check_installation} <= set(always)


class DocumentationTests(SimpleTestCase):
    def test_every_id_is_documented(self):
        page = (ROOT / "docs/reference/checks.md").read_text()
        source = "".join(path.read_text() for path in (ROOT / "converse/checks").glob("*.py"))
        used = set(re.findall(r"converse\.([EW]\d{3})", source)) | {number for number, _ in SETTINGS.values()}
        assert set(re.findall(r"^\| `converse\.([EW]\d{3})`", page, re.MULTILINE)) == used
        for name, (number, _) in SETTINGS.items():
            assert re.search(rf"^\| `converse\.{number}` \| `{name}`", page, re.MULTILINE), name
