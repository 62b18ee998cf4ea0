"""Tasks that exist only inside group files: named by the catalogue, loaded and run by the runner under that name."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from runner_process import PROBE, Runner

from mlflow_lmms.catalogue import read_catalogue
from mlflow_lmms.reading.group_members import GroupIndex, UnknownMemberError, group_members

GROUP = """
group: mine
task:
  - probe_sum
  - task: probe_sum
    doc_to_text: "What is {{question}}"
  - task: probe_inline
    include: _arithmetic.yaml
    dataset_kwargs: {data_files: {test: few.jsonl}}
    process_results: !function scoring.starts_with_answer
    metric_list:
      - {metric: percent_right, aggregation: !function scoring.percent, higher_is_better: true}
"""
NAMES = ["probe_sum", "probe_sum@mine", "probe_inline@mine"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The probe's tasks with a group beside them."""
    tasks = tmp_path / "tasks"
    shutil.copytree(PROBE / "tasks", tasks)
    (tasks / "mine.yaml").write_text(GROUP, encoding="utf-8")
    return tasks


@pytest.mark.lmms_eval
@pytest.mark.parametrize("asked", [["mine"], ["probe_inline@mine", "probe_sum@mine", "probe_sum"]])
def test_each_task_of_a_group_runs_as_the_group_wants_it(folder: Path, tmp_path: Path, asked: list[str]) -> None:
    outcome = Runner(tmp_path / "hub").run(tmp_path, include_paths=[str(folder)], tasks=asked, limit=3)
    assert outcome.status == 0, outcome.console[-2000:]
    assert {event["task"] for event in outcome.of("task-finished")} == set(NAMES)
    prompts = {name: outcome.samples(name)[0]["input"] for name in NAMES}
    assert prompts == {
        "probe_sum": "0 plus 0 is",
        "probe_sum@mine": "What is 0 plus 0",
        "probe_inline@mine": "0 plus 0 is",
    }
    (metric,) = outcome.result("probe_inline@mine")["metrics"]
    assert metric["metric"] == "percent_right"


@pytest.mark.lmms_eval
def test_a_task_that_the_group_has_not_is_refused(folder: Path, tmp_path: Path) -> None:
    outcome = Runner(tmp_path / "hub").run(tmp_path, include_paths=[str(folder)], tasks=["nope@mine"], limit=3)
    (failed,) = outcome.of("task-failed")
    assert failed["failure"] == "bad_request"
    assert "nope@mine" in failed["message"]


def test_the_catalogue_names_them_alike(folder: Path) -> None:
    catalogue = read_catalogue([folder])
    assert catalogue.expand(["mine"]) == NAMES
    assert [catalogue.tasks[name].metrics[0].name for name in NAMES] == [
        "exact_match",
        "exact_match",
        "percent_right",
    ]
    (group,) = catalogue.group_definitions(["mine", "probe_sum"])
    assert group.members == tuple(NAMES)


def expand(group: str, **groups: dict[str, object]) -> dict[str, dict[str, object]]:
    """Names and changes of a group's tasks, in an index of the tasks a and b, both of the tag ab."""
    kinds = {"a": "task", "b": "task", "ab": "tag"} | dict.fromkeys(groups, "group")
    index = GroupIndex(kind=kinds.get, group=groups.__getitem__, tag=lambda _: ["a", "b"])  # type: ignore[arg-type]
    return {member.name: dict(member.overrides) for member in group_members(group, index)}


def test_a_groups_own_settings_reach_what_it_names() -> None:
    assert expand("g", g={"task": ["ab"], "num_fewshot": 2}) == {"a@g": {"num_fewshot": 2}, "b@g": {"num_fewshot": 2}}
    assert expand("g", g={"task": [{"task": "ab", "repeats": 3}, "b"]}) == {
        "a@g": {"repeats": 3},
        "b@g": {"repeats": 3},
        "b": {},
    }
    outer, inner = {"task": ["inner"], "repeats": 2}, {"task": ["a"], "num_fewshot": 1}
    assert expand("outer", outer=outer, inner=inner) == {"a@outer": {"num_fewshot": 1, "repeats": 2}}
    assert expand("outer", outer={"task": ["inner"]}, inner=inner) == {"a@inner": {"num_fewshot": 1}}


def test_the_same_task_changed_twice_has_two_names() -> None:
    items = [{"task": "a", "num_fewshot": shots} for shots in (0, 5, 8)]
    assert list(expand("g", g={"task": items})) == ["a@g", "a-1@g", "a-2@g"]


def test_a_name_shown_otherwise_is_no_change() -> None:
    assert expand("g", g={"task": [{"task": "a", "task_alias": "first"}]}) == {"a": {}}


def test_settings_stay_outside_of_a_group_written_inside() -> None:
    written = {"group": "inner", "task": ["a"], "repeats": 2}
    assert expand("g", g={"task": [written], "num_fewshot": 1}) == {"a@g": {"repeats": 2}}


def test_what_is_no_task_is_named() -> None:
    with pytest.raises(UnknownMemberError, match="'g' names 'zzz'"):
        expand("g", g={"task": [{"task": "zzz", "num_fewshot": 1}]})
