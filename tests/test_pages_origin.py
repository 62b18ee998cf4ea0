"""Where reported scores come from: what the page of such a run shows, and which addresses become links."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from evaluation_world import Seeded
from flask.testing import FlaskClient

from mlflow_lmms.importing.reported_scores import ReportedScores
from mlflow_lmms.names import Tag
from plugin_ui.pages.origin import published_source, web_address

_PAPER = "https://example.org/paper"
_TABLE = f"""model,task,metric,score,source,url
qwen,mmmu,acc,54.1,A paper,{_PAPER}
qwen,mmbench,acc,83.0,A paper,{_PAPER}
"""


@pytest.mark.parametrize("address", ["http://a.org", "https://a.org/x?y=1#z", "HTTPS://a.org"])
def test_web_addresses_become_links(address: str) -> None:
    assert web_address(address) == address


@pytest.mark.parametrize(
    "other", [None, 3, "", "A paper", "javascript:alert(1)", "data:text/html,x", "//a.org", "https:x", "http://[::1"]
)
def test_nothing_else_does(other: object) -> None:
    assert web_address(other) is None


def tags(source: str, **urls: str) -> dict[str, str]:
    primary = {Tag.primary(task): json.dumps({"metric": "acc", "url": url}) for task, url in urls.items()}
    return {Tag.REPORTED_SOURCE: source, **primary}


def test_the_source_links_to_the_one_address_that_its_scores_have() -> None:
    source = published_source(tags("A paper", a=_PAPER, b=_PAPER, c="javascript:alert(1)"), "abc")
    assert (source.name, source.url, source.urls) == ("A paper", _PAPER, {"a": _PAPER, "b": _PAPER})
    assert published_source(tags("A paper", a=_PAPER, b="https://b.org"), "ab").url is None
    assert published_source(tags("https://b.org", a=_PAPER), "a").url == "https://b.org"
    assert published_source({}, "a").name == "source not told"


def test_the_page_of_reported_scores_shows_their_source_and_nothing_of_a_run(
    seeded: Seeded, visitor: FlaskClient, tmp_path: Path
) -> None:
    table = tmp_path / "published.csv"
    table.write_text(_TABLE, encoding="utf-8")
    client = seeded.world.client
    (outcome,) = ReportedScores(client, client.create_experiment("reported")).import_file(table).files
    page = visitor.get(f"/lmms/evaluations/{outcome.run_id}").text
    main = page.partition("<main")[2]
    assert f'published by others: <a href="{_PAPER}" rel="noreferrer">A paper</a>' in main
    assert re.findall(r'<td class="score">([^<]+)', main) == ["54.10", "83.00"]
    assert main.count(f'href="{_PAPER}"') == 3
    for word in ("<progress", "Running score", "finished", "data-events", "/samples/"):
        assert word not in main
