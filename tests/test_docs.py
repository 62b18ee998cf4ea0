"""The documentation names every setting with its meaning and every command, and its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from mlflow_lmms.cli.main import cli
from mlflow_lmms.settings import PREFIX, Settings

ROOT = Path(__file__).parent.parent
DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("name", Settings.model_fields)
def test_each_setting_is_described_as_in_the_code(name: str) -> None:
    rows = [line for line in (ROOT / "docs" / "settings.md").read_text().splitlines() if line.startswith("| `")]
    found = [row for row in rows if row.startswith(f"| `{PREFIX}{name.upper()}` |")]
    assert len(found) == 1, f"docs/settings.md has {len(found)} rows for {PREFIX}{name.upper()}"
    assert (Settings.model_fields[name].description or "") in found[0]


def test_no_setting_is_described_that_is_none() -> None:
    named = set(re.findall(rf"{PREFIX}([A-Z_]+)", "".join(path.read_text() for path in DOCS)))
    assert named - {name.upper() for name in Settings.model_fields} <= {"CONFIG"}


def commands() -> list[str]:
    context = click.Context(cli)
    found = []
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        found += [f"{name} {sub}" for sub in command.commands] if isinstance(command, click.Group) else [name]
    return found


def test_each_command_is_described() -> None:
    text = (ROOT / "docs" / "cli.md").read_text()
    missing = [name for name in commands() if not re.search(rf"^\| `{name}[ `]", text, re.MULTILINE)]
    assert missing == []


def test_each_command_in_an_example_exists_with_its_options() -> None:
    context = click.Context(cli)
    examples = [
        line
        for path in DOCS
        for block in re.findall(r"```sh\n(.*?)```", path.read_text().replace("\\\n", " "), re.DOTALL)
        for line in block.splitlines()
        if "mlflow-lmms " in line and not line.startswith(("git", "pip", "cd"))
    ]
    assert len(examples) > 10
    for line in examples:
        words = line.partition("mlflow-lmms ")[2].split()
        command = cli.get_command(context, words.pop(0))
        assert command is not None, line
        if "--" in words:  # what follows is another program's
            words = words[: words.index("--")]
        alone = not words or words[0].startswith("--")
        if isinstance(command, click.Group) and not (command.invoke_without_command and alone):
            command = command.commands[words.pop(0)]
        options = {option for parameter in command.params for option in parameter.opts}
        if not command.context_settings.get("ignore_unknown_options"):
            assert {word for word in words if word.startswith("--")} <= options, line


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_links_lead_to_files(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", path.read_text()):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target


@pytest.mark.parametrize("target", ["demo", "test", "check", "bench", "dev"])
def test_make_targets_are_named_where_one_looks(target: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    assert f"make {target}" in (ROOT / "README.md").read_text() + (ROOT / "CONTRIBUTING.md").read_text()
