"""The documentation compared with the code, and its examples run."""

from __future__ import annotations

import ast
import inspect
import io
import re
import sys
import tomllib
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.core.management import BaseCommand, get_commands, load_command_class
from django.db import models
from django.dispatch import Signal
from django.test import SimpleTestCase, TransactionTestCase

from converse import choices, deltas, drafts, events, exceptions, plans, providers, signals
from converse.accounting import CallQuerySet
from converse.conf import Settings
from converse.managers import ConversationQuerySet, MessageQuerySet
from converse.models import Conversation, HasConversations, Message, MessageAttachment
from converse.models.conversations import ConversationManager
from converse.replies import reply
from converse.streaming import Stream
from converse.subscriptions import subscribe
from converse.transports import commands, feeds, frames, websocket
from tests.documents import DOCS, README, ROOT, Block, blocks, names, pages, rows, section

REFERENCE = DOCS / "reference"
API = REFERENCE / "api.md"
VALUES = REFERENCE / "values.md"
WEBSOCKET = REFERENCE / "websocket.md"
TRANSPORT = (websocket, commands, feeds, frames)


class SettingsTests(SimpleTestCase):
    def test_every_setting_has_a_heading_with_its_type_and_default(self):
        text = (REFERENCE / "settings.md").read_text()
        found = re.findall(r"^### `(CONVERSE_\w+)`\n\n`([^`]+)`, default `([^`]+)`$", text, re.MULTILINE)
        documented = {name: (kind, ast.literal_eval(default)) for name, kind, default in found}
        assert documented == {name: (kind, vars(Settings)[name]) for name, kind in Settings.__annotations__.items()}

    def test_every_setting_that_a_page_names_exists(self):
        allowed = {*Settings.__annotations__, "CONVERSE_REQUIRE_SERVICES"}
        for page in pages():
            for name in re.findall(r"\bCONVERSE_[A-Z_]+\b", page.read_text()):
                assert name in allowed or name.startswith("CONVERSE_TEST_"), f"{page.name}: {name}"


class SignalTests(TransactionTestCase):
    def test_the_signals_are_sent_as_the_table_says(self):
        documented = {
            names(name)[0]: (names(sender)[0], set(names(arguments)))
            for name, sender, arguments, _ in rows((REFERENCE / "signals.md").read_text())
        }
        sent: dict[str, tuple[str, set[str]]] = {}
        declared = {name: signal for name, signal in vars(signals).items() if isinstance(signal, Signal)}

        def listen(name: str, signal: Signal) -> None:
            def receive(sender: type, **kwargs: Any) -> None:
                sent[name] = (sender.__name__, set(kwargs) - {"signal"})

            signal.connect(receive, weak=False, dispatch_uid="documented")
            self.addCleanup(signal.disconnect, dispatch_uid="documented")

        for name, signal in declared.items():
            listen(name, signal)
        conversation = Conversation.objects.start()
        conversation.rename("Another")
        conversation.start_streaming_assistant().complete_streaming()
        conversation.start_streaming_assistant().fail_streaming("why")
        conversation.start_streaming_assistant().stop()
        message = conversation.create_user_message("Hello!")
        message.update_metadata(colour="red")
        message.delete()
        conversation.delete()
        assert sent == documented
        assert set(declared) == set(documented)


class EventTests(SimpleTestCase):
    def test_every_event_is_listed_with_its_fields(self):
        text = (REFERENCE / "events.md").read_text()
        documented = {
            event: [field for row in rows(section(REFERENCE / "events.md", heading)) for field in names(row[0])]
            for heading in re.findall(r"^## (.+)$", text, re.MULTILINE)
            for event in names(heading)
        }
        declared = {
            name: event
            for name, event in vars(events).items()
            if isinstance(event, type) and issubclass(event, events.Event) and not name.endswith("Event")
        }
        assert set(documented) == set(declared)
        for name, event in declared.items():
            keys = {key for _, key, _ in events.wire_names(event)}
            assert set(documented[name]) == keys, name

    def test_fields_that_may_be_missing_are_marked(self):
        text = (REFERENCE / "events.md").read_text()
        marked = {field for row in rows(text) if row[1].startswith("if any") for field in names(row[0])}
        optional = {
            key
            for event in vars(events).values()
            if isinstance(event, type) and issubclass(event, events.Event)
            for attribute, key, absent in events.wire_names(event)
            if absent and attribute != "offset"
        }
        assert marked == optional


class WebsocketTests(SimpleTestCase):
    def test_every_command_is_listed(self):
        documented = [names(row[0])[0] for row in rows(section(WEBSOCKET, "What a client sends"))]
        assert documented == list(websocket.COMMANDS)

    def test_every_field_of_a_command_is_listed(self):
        source = "".join(inspect.getsource(module) for module in TRANSPORT)
        read = {a or b for a, b in re.findall(r'_of\(frame, "(\w+)"|frame\.get\("(\w+)"\)', source)} - {"type", "id"}
        fields_of = (names(row[1]) for row in rows(section(WEBSOCKET, "What a client sends")))
        assert {name.partition(":")[0] for listed in fields_of for name in listed} == read

    def test_every_error_code_is_listed(self):
        source = "".join(inspect.getsource(module) for module in TRANSPORT)
        raised = set(re.findall(r'Refused\(\s*"(\w+)"', source))
        documented = {names(row[0])[0] for row in rows(section(WEBSOCKET, "What the server answers")) if len(row) == 2}
        answers = set(re.findall(r'"type": "(\w+)"', source))
        assert documented == raised | answers

    def test_every_close_code_is_listed(self):
        constants = {**vars(websocket), **vars(feeds)}
        declared = {str(code) for name, code in constants.items() if name.isupper() and isinstance(code, int)}
        documented = {row[0] for row in rows(section(WEBSOCKET, "Close codes"))}
        assert documented == {code for code in declared if len(code) == 4}


def public(cls: type) -> set[str]:
    """Return the names of what a class of ours offers, asynchronous twins apart."""
    own = {
        name
        for name, value in vars(cls).items()
        if not name.startswith("_")
        and name not in ("Meta", "DoesNotExist", "MultipleObjectsReturned", "NotUpdated", "objects", "all_objects")
        and not re.match(r"get_(next|previous)_by_|get_\w+_display$", name)
        and (inspect.isfunction(value) or hasattr(value, "func") or isinstance(value, property | staticmethod))
    }
    return {name for name in own if not (name.startswith("a") and name[1:] in own)}


class ApiTests(SimpleTestCase):
    TABLES = {
        "`Conversation`": Conversation,
        "`Message`": Message,
        "`MessageAttachment`": MessageAttachment,
        "`Stream`": Stream,
        "`HasConversations`": HasConversations,
        "`ConversationQuerySet`": ConversationQuerySet,
        "`MessageQuerySet`": MessageQuerySet,
        "`CallQuerySet`": CallQuerySet,
    }

    def documented(self, heading: str) -> Iterator[tuple[str, bool]]:
        for row in rows(section(API, heading)):
            if len(row) == 3:
                yield names(row[0])[0], row[1] == "⇄"

    def test_every_method_is_listed(self):
        for heading, cls in self.TABLES.items():
            listed = {re.match(r"\w+", text)[0] for text, _ in self.documented(heading)} - {"start"}
            assert listed == public(cls), heading

    def test_the_signatures_are_those_of_the_code(self):
        for heading, cls in self.TABLES.items():
            for text, _ in self.documented(heading):
                name = re.match(r"\w+", text)[0]
                function = inspect.getattr_static(ConversationManager if name == "start" else cls, name)
                if "(" in text:
                    function = getattr(function, "__func__", function)
                    assert signature(text) == actual(function), f"{heading}: {text}"

    def test_marked_methods_have_a_twin_and_no_others(self):
        for heading, cls in self.TABLES.items():
            for text, twin in self.documented(heading):
                name = re.match(r"\w+", text)[0]
                assert hasattr(ConversationManager if name == "start" else cls, f"a{name}") == twin, (
                    f"{heading}: {name}"
                )

    def test_the_keywords_of_a_reply_are_listed(self):
        listed = {names(row[0])[0] for row in rows(section(API, "Replies")) if len(row) == 2}
        parameters = inspect.signature(inspect.getmodule(reply)._prepare).parameters.values()
        own = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY} - {"begin", "branch", "inherited"}
        assert listed == own | set(inspect.signature(plans.make).parameters)

    def test_the_signature_of_subscribe_is_that_of_the_code(self):
        [[text, _]] = rows(section(API, "Following"))
        assert signature(names(text)[0]) == actual(subscribe)


def signature(text: str) -> list[tuple[str, str, Any]]:
    """Return the parameters in a documented signature: kind, name, default."""
    function = ast.parse(f"def {text}: pass").body[0]
    namespace: dict[str, Any] = {}
    exec(compile(ast.Module([function], []), "<docs>", "exec"), namespace)
    return actual(namespace[function.name])


def actual(function: Any) -> list[tuple[str, str, Any]]:
    found = [(p.kind.name, p.name, p.default) for p in inspect.signature(function).parameters.values()]
    return [parameter for parameter in found if parameter[1] != "self"]


class ValueTests(SimpleTestCase):
    def listed(self, heading: str) -> dict[str, list[str]]:
        return {names(row[0])[0]: names(row[1]) for row in rows(section(VALUES, heading))}

    def declared(self, module: Any) -> dict[str, list[str]]:
        made = (value for value in vars(module).values() if hasattr(value, "__dataclass_fields__"))
        return {value.__name__: [field.name for field in fields(value)] for value in made}

    def test_drafts_deltas_and_prompts_are_listed_with_their_fields(self):
        assert self.listed("Drafts") == self.declared(drafts)
        assert self.listed("Deltas") == self.declared(deltas)
        assert self.listed("Prompts") == self.declared(providers)

    def test_every_exception_is_listed(self):
        declared = [
            name for name, value in vars(exceptions).items() if isinstance(value, type) and issubclass(value, Exception)
        ]
        assert list(self.listed("Exceptions")) == declared

    def test_every_choice_is_listed(self):
        declared = {
            name: value.values
            for name, value in vars(choices).items()
            if isinstance(value, type) and issubclass(value, models.TextChoices) and value.values
        }
        assert self.listed("Choices") == declared


class CommandTests(SimpleTestCase):
    def test_every_command_is_listed_with_its_options(self):
        page = REFERENCE / "commands.md"
        headings = re.findall(r"^## `(\w+)`$", page.read_text(), re.MULTILINE)
        assert set(headings) == {name for name, app in get_commands().items() if app == "converse"}
        common = {option for action in BaseCommand().create_parser("", "")._actions for option in action.option_strings}
        for name in headings:
            actions = load_command_class("converse", name).create_parser("manage.py", name)._actions
            taken = {option for action in actions for option in (action.option_strings or [action.dest])} - common
            assert {names(row[0])[0] for row in rows(section(page, f"`{name}`"))} == taken, name


def code_of(block: Block) -> Any:
    """Compile an example; ``await`` may stand outside a function, and a dict's items by themselves."""
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    name = f"{block.place}:{block.line}"
    try:
        return compile("\n" * block.line + block.code, name, "exec", flags)
    except SyntaxError:
        try:
            return compile("\n" * block.line + "{" + block.code.rstrip() + "}", name, "exec", flags)
        except SyntaxError:
            pass
        raise


class ExampleTests(TransactionTestCase):
    def test_every_python_example_compiles(self):
        for page in pages():
            for block in blocks(page, "python"):
                code_of(block)

    def test_every_mark_is_one_that_a_test_knows(self):
        for page in pages():
            for block in blocks(page):
                assert re.match(r"$|runs$|compiles$|run$|(file|append): ", block.mark), f"{block.place}:{block.line}"

    async def test_the_examples_that_are_said_to_run_do(self):
        for page in pages():
            await self.run_page(page)

    async def run_page(self, page: Path) -> None:
        users = get_user_model().objects
        number = await users.acount()
        user = await users.acreate_user(f"user-{number}")
        friend = await users.acreate_user(f"friend-{number}")
        conversation = await Conversation.objects.astart(user)
        example = ModuleType("example")  # what a page defines is found by name, as tools have to be
        sys.modules["example"] = example
        self.addCleanup(sys.modules.pop, "example", None)
        namespace = vars(example)
        namespace.update(conversation=conversation, user=user, friend=friend)
        for block in blocks(page, "python"):
            if block.mark == "runs":
                with redirect_stdout(io.StringIO()):
                    result = await self.run_block(block, namespace)
                    if inspect.isawaitable(result):
                        await result

    async def run_block(self, block: Block, namespace: dict[str, Any]) -> Any:
        code = code_of(block)
        if code.co_flags & inspect.CO_COROUTINE:
            return await eval(code, namespace)
        return await sync_to_async(eval)(code, namespace)


class ArchitectureTests(SimpleTestCase):
    def test_every_module_has_its_room_on_the_layer_that_the_import_contract_gives_it(self):
        contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
        [layers] = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
        layer_of = {name.strip("() "): level for level, line in enumerate(layers) for name in line.split("|")}
        rooms = [names(row[1]) for row in rows(section(DOCS / "architecture.md", "Rooms"))]
        modules = {path.stem for path in (ROOT / "converse").glob("[!_]*.py")}
        packages = {path.parent.name for path in (ROOT / "converse").glob("*/__init__.py")} - {"migrations"}
        assert modules | packages <= set(layer_of)
        assert {name for room in rooms for name in room} == set(layer_of)
        levels = [sorted({layer_of[name] for name in room}) for room in rooms]
        assert all(above[-1] <= below[0] for above, below in pairwise(levels)), levels


class ReadmeTests(SimpleTestCase):
    def test_every_test_that_the_readme_names_exists(self):
        for path in re.findall(r"\btests/[\w/]+\.(?:py|mjs)", README.read_text()):
            assert (ROOT / path).is_file(), path

    def test_every_page_and_picture_that_the_readme_names_exists(self):
        for path in re.findall(r"\]\(((?:docs/|LICENSE|CHANGELOG)[^)#]*)", README.read_text()):
            assert (ROOT / path).exists(), path

    def test_the_one_line_that_runs_the_tests_is_the_same_everywhere(self):
        [line] = [line for line in README.read_text().splitlines() if line.endswith("-m pytest")]
        assert line in (DOCS / "how-to" / "contributing.md").read_text()
