from __future__ import annotations

import subprocess
import sys
from unittest import mock

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import SimpleTestCase, override_settings

from converse.exceptions import UnknownProvider
from converse.parts import Reasoning, Text
from converse.providers import PromptMessage, get_provider
from converse.providers.echo import EchoProvider
from converse.providers.openai import OpenAIProvider


class NotOne:
    pass


def configured(backend="converse.providers.echo.EchoProvider", **options):
    return override_settings(CONVERSE_PROVIDERS={"default": {"BACKEND": backend, "OPTIONS": options}})


class GetProviderTests(SimpleTestCase):
    def test_an_alias_stands_for_a_backend_and_its_options(self):
        with configured("converse.providers.openai.OpenAIProvider", model="gpt", api_key="k", include_usage=False):
            provider = get_provider("default")
        assert isinstance(provider, OpenAIProvider)
        assert (provider.model, provider.include_usage) == ("gpt", False)

    @override_settings(CONVERSE_PROVIDERS={"echo": {"BACKEND": "converse.providers.echo.EchoProvider"}})
    def test_options_may_be_left_out_and_each_reply_gets_a_provider_of_its_own(self):
        assert isinstance(get_provider("echo"), EchoProvider)
        assert get_provider("echo") is not get_provider("echo")

    @configured()
    def test_an_unknown_alias_is_named_beside_the_ones_that_exist(self):
        with pytest.raises(UnknownProvider, match=r"'claude'.*CONVERSE_PROVIDERS.*'default'"):
            get_provider("claude")

    @override_settings(CONVERSE_PROVIDERS={})
    def test_without_any_configuration_the_error_says_where_it_belongs(self):
        with pytest.raises(UnknownProvider, match=r"'echo' in the setting CONVERSE_PROVIDERS, which has nothing"):
            get_provider("echo")

    @override_settings(CONVERSE_PROVIDERS={"default": {"OPTIONS": {}}})
    def test_a_missing_backend_is_reported_with_its_alias(self):
        with pytest.raises(ImproperlyConfigured, match=r"CONVERSE_PROVIDERS\['default'\]: BACKEND is missing"):
            get_provider("default")

    @configured("converse.providers.nobody.Provider")
    def test_a_backend_that_does_not_exist_is_reported_with_its_alias(self):
        with pytest.raises(ImproperlyConfigured, match=r"\['default'\]: .*converse\.providers\.nobody"):
            get_provider("default")

    @configured(dealy=1)
    def test_a_misspelt_option_is_named(self):
        with pytest.raises(ImproperlyConfigured, match=r"\['default'\]: .*'dealy'"):
            get_provider("default")

    @configured(f"{__name__}.NotOne")
    def test_a_class_that_is_no_provider_is_refused(self):
        with pytest.raises(ImproperlyConfigured, match="NotOne is not a Provider"):
            get_provider("default")

    @configured("converse.providers.anthropic.AnthropicProvider")
    def test_a_missing_sdk_comes_with_the_command_that_installs_it(self):
        said = pytest.raises(ImproperlyConfigured, match=r"pip install 'django-converse\[anthropic\]'")
        with mock.patch.dict(sys.modules, {"anthropic": None}), said:
            get_provider("default")

    @configured("converse.providers.gemini.GeminiProvider")
    def test_a_missing_http_library_comes_with_the_command_that_installs_it(self):
        without = {"httpx2": None, "converse.providers.gemini": None}
        with mock.patch.dict(sys.modules, without):
            del sys.modules["converse.providers.gemini"]
            with pytest.raises(ImproperlyConfigured, match=r"pip install 'django-converse\[gemini\]'"):
                get_provider("default")

    def test_importing_providers_imports_no_sdk_and_no_model(self):
        for names, heavy in (
            (("", ".echo"), {"openai", "anthropic", "httpx2", "converse.models"}),
            ((".openai", ".responses", ".mistral", ".anthropic"), {"openai", "anthropic", "converse.models"}),
        ):
            imported = ", ".join(f"converse.providers{name}" for name in names)
            code = f"import sys, {imported}; print(*sorted({heavy} & set(sys.modules)))"
            found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
            assert found.split() == []


class PromptMessageTests(SimpleTestCase):
    def test_the_text_of_a_turn_is_that_of_its_parts_and_the_other_way_round(self):
        parts = [Text("Hel"), Reasoning("Hmm"), Text("lo")]
        assert PromptMessage(role="assistant", parts=parts).text == "Hello"
        assert PromptMessage(role="assistant", parts=parts, text="Bye").text == "Bye"
        assert PromptMessage(role="user", text="Hello").parts == (Text("Hello"),)
        assert PromptMessage(role="user", text=" ").parts == ()
