"""The catalogue against lmms-eval's own index, and with task folders of one's own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mlflow_lmms.catalogue import Catalogue, installed_tasks_folder, read_catalogue
from mlflow_lmms.errors import ConfigurationError, InvalidRequestError


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a server without lmms-eval."""
    monkeypatch.setattr("mlflow_lmms.catalogue.build.installed_tasks_folder", lambda: None)


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.lmms_eval
def test_it_is_lmms_evals_own_index(catalogue: Catalogue, tmp_path: Path) -> None:
    """Lets lmms-eval build its index in a process of its own and compares names, groups and tags."""
    program = tmp_path / "index.py"
    program.write_text(
        """
import json, sys
from lmms_eval.tasks import TaskManager

index = TaskManager().task_index
members = {name: entry["task"] for name, entry in index.items() if entry["type"] == "tag"}
json.dump([{name: entry["type"] for name, entry in index.items()}, members], open(sys.argv[1], "w"))
""",
        encoding="utf-8",
    )
    answer = tmp_path / "index.json"
    subprocess.run([sys.executable, "-P", program, answer], check=True, capture_output=True, cwd=tmp_path)
    kinds, members = json.loads(answer.read_text())
    found = {
        kind: {name for name, its in kinds.items() if its in kind.split("|")}
        for kind in ("task|python_task", "group", "tag")
    }
    assert found["task|python_task"] == set(catalogue.tasks)
    assert found["group"] == set(catalogue.groups)
    assert {tag: set(tasks) for tag, tasks in members.items()} == {
        tag: set(tasks) for tag, tasks in catalogue.tags.items()
    }


@pytest.mark.lmms_eval
def test_groups_expand_to_what_lmms_eval_would_load(catalogue: Catalogue, tmp_path: Path) -> None:
    """Lets lmms-eval expand every group; loading a task itself, which takes its data set, is left out."""
    program = tmp_path / "expand.py"
    program.write_text(
        """
import json, sys
import lmms_eval.tasks as tasks

read = tasks.utils.load_yaml_config
tasks.utils.ignore_constructor = lambda loader, node: lambda: None
tasks.utils.load_yaml_config = lambda path=None, config=None, folder=None, mode="", **given: read(
    given.get("yaml_path", path), given.get("yaml_config", config), folder, "simple"
)
tasks.ConfigurableTask = lambda config, model_name: config


def leaves(tree):
    for name, item in tree.items():
        yield from leaves(item) if not isinstance(name, str) else [name]


manager = tasks.TaskManager()
answers = {}
for group in manager.all_groups:
    try:
        answers[group] = sorted(leaves(manager.load_task_or_group(group)))
    except Exception as error:
        answers[group] = type(error).__name__
json.dump(answers, open(sys.argv[1], "w"))
""",
        encoding="utf-8",
    )
    answer = tmp_path / "answers.json"
    subprocess.run([sys.executable, "-P", program, answer], check=True, capture_output=True, cwd=tmp_path)
    theirs = json.loads(answer.read_text())
    assert len(theirs) == 201
    for group, expected in theirs.items():
        try:
            ours = sorted(set(catalogue.expand([group])))
        except InvalidRequestError:
            # A member that does not exist: lmms-eval takes its name for a task and fails when it has no data set.
            assert any(name not in catalogue.tasks for name in expected)
        else:
            assert ours == sorted(set(expected)), group


def test_the_installed_tasks_are_read_without_lmms_eval_or_torch() -> None:
    program = (
        "import sys; from mlflow_lmms.catalogue import read_catalogue; "
        "assert len(read_catalogue([]).tasks) > 1000; "
        "assert not {'lmms_eval', 'torch', 'datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-P", "-c", program], check=True, capture_output=True)


def test_a_task_is_described(catalogue: Catalogue) -> None:
    task = catalogue.tasks["mmmu_val"]
    assert (task.output_type, task.dataset, task.own) == ("generate_until", "lmms-lab-encoder/MMMU", False)
    assert task.path.suffix == ".yaml"
    assert "mme" in catalogue.tasks


def test_groups_with_subgroups_of_the_same_name_keep_their_own_tasks(catalogue: Catalogue) -> None:
    generative, continuation = (set(catalogue.expand([f"mmlu_{kind}"])) for kind in ("generative", "continuation"))
    assert len(generative) == len(continuation) == 57
    assert not generative & continuation
    with pytest.raises(InvalidRequestError):
        catalogue.expand(["stem"])


def test_tasks_groups_and_tags_expand_to_tasks_in_order_and_once(catalogue: Catalogue) -> None:
    group = next(name for name, members in catalogue.groups.items() if set(members) <= set(catalogue.tasks))
    first = catalogue.groups[group][0]
    assert catalogue.expand(["mmmu_val", group, first]) == ["mmmu_val", *catalogue.groups[group]]
    tag = next(iter(catalogue.tags))
    assert catalogue.expand([tag]) == catalogue.tags[tag]


def test_every_group_and_tag_expands_or_names_what_is_missing(catalogue: Catalogue) -> None:
    broken = []
    for name in (*catalogue.groups, *catalogue.tags):
        try:
            tasks = catalogue.expand([name])
        except InvalidRequestError as error:
            assert "names '" in error.message
            broken.append(name)
        else:
            assert tasks
            assert set(tasks) <= set(catalogue.tasks)
    assert len(broken) < 10


@pytest.mark.parametrize(
    ("name", "near"), [("mmmu_vall", "mmmu_val"), ("MMMU_val", "mmmu_val"), ("zzzzzzzzzz", "New evaluation")]
)
def test_an_unknown_name_is_answered_with_near_ones(catalogue: Catalogue, name: str, near: str) -> None:
    with pytest.raises(InvalidRequestError, match=name) as caught:
        catalogue.expand(["mmmu_val", name])
    assert near in caught.value.message


def test_search_finds_all_words_in_name_dataset_or_tags(catalogue: Catalogue) -> None:
    assert "mmmu_val" in [task.name for task in catalogue.search("VAL mmmu")]
    assert all("ai2d" in f"{task.name} {task.dataset} {task.tags}".lower() for task in catalogue.search("ai2d"))
    assert len(catalogue.search()) == len(catalogue.tasks)
    assert catalogue.search("no such words") == []


TASK = "task: {name}\ndataset_path: json\noutput_type: generate_until\n"


def test_ones_own_tasks_come_first_and_win(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        mine=TASK.format(name="zz_mine") + "tag: [house, vision]\n",
        theirs=TASK.format(name="mmmu_val") + "doc_to_text: !function scoring.text\n",
        both="group: mine_all\ntask: [zz_mine, mmmu_val, ai2d]\n",
    )
    catalogue = read_catalogue([folder])
    assert catalogue.complete
    mine = catalogue.tasks["zz_mine"]
    assert (mine.path, mine.output_type, mine.dataset) == (folder / "mine.yaml", "generate_until", "json")
    assert (mine.tags, mine.own) == (("house", "vision"), True)
    assert catalogue.tasks["mmmu_val"].dataset == "json"
    assert [task.name for task in catalogue.search()][:2] == ["mmmu_val", "zz_mine"]
    assert catalogue.expand(["mine_all"]) == ["zz_mine", "mmmu_val", "ai2d"]
    assert catalogue.expand(["house"]) == ["zz_mine"]


@pytest.mark.usefixtures("nothing_installed")
def test_includes_are_merged_and_the_file_wins(tmp_path: Path) -> None:
    (tmp_path / "_base").write_text("dataset_path: base\noutput_type: multiple_choice\n", encoding="utf-8")
    write(
        tmp_path,
        _more="include: _base\noutput_type: generate_until\ntest_split: test\n",
        one="include: _base\ntask: one\n",
        two="include: [_base, _more.yaml]\ntask: two\ndataset_path: own\n",
        gone="include: nowhere\ntask: gone\n",
        loop="include: loop.yaml\ntask: loop\n",
        odd="include: 3\ntask: odd\n",
    )
    tasks = read_catalogue([tmp_path]).tasks
    assert (tasks["one"].dataset, tasks["one"].output_type) == ("base", "multiple_choice")
    two = tasks["two"]
    assert (two.dataset, two.output_type, two.split) == ("own", "multiple_choice", "test")  # the first one wins
    assert {"gone", "loop", "odd"} <= set(tasks)


@pytest.mark.usefixtures("nothing_installed")
def test_files_that_are_no_tasks_are_left_out(tmp_path: Path) -> None:
    write(
        tmp_path,
        good=TASK.format(name="good"),
        listed="- task: a\n",
        empty="",
        broken="task: [",
        tagged="task: !unknown x",
        dated="task: bad\nmade: 2024-13-45\n",
        numbered="task: 3\n",
    )
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert set(read_catalogue([tmp_path]).tasks) == {"good"}


@pytest.mark.usefixtures("nothing_installed")
def test_tasks_inside_a_group_file_belong_to_it(tmp_path: Path) -> None:
    write(
        tmp_path,
        group="""
group: outer
task:
  - plain
  - task: inline
    dataset_path: json
  - group: inner
    task: [deep]
  - 7
""",
        plain=TASK.format(name="plain"),
        deep=TASK.format(name="deep"),
    )
    catalogue = read_catalogue([tmp_path])
    assert catalogue.expand(["outer"]) == ["plain", "inline@outer", "deep"]
    assert catalogue.groups == {"outer": ("plain", "inline@outer", "deep")}
    assert catalogue.tasks["inline@outer"].dataset == "json"
    assert catalogue.expand(["inline@outer"]) == ["inline@outer"]


@pytest.mark.usefixtures("nothing_installed")
def test_a_server_without_lmms_eval_takes_names_that_it_cannot_know(tmp_path: Path) -> None:
    write(tmp_path, mine=TASK.format(name="mine"), both="group: both\ntask: [mine, mmmu_val]\n")
    catalogue = read_catalogue([tmp_path])
    assert not catalogue.complete
    assert catalogue.expand(["mine", "anything"]) == ["mine", "anything"]
    assert catalogue.expand(["both"]) == ["mine", "mmmu_val"]


@pytest.mark.usefixtures("nothing_installed")
def test_a_group_in_itself_is_refused(tmp_path: Path) -> None:
    write(tmp_path, a="group: a\ntask: [b]\n", b="group: b\ntask: [a]\n")
    with pytest.raises(InvalidRequestError, match="'a' contains itself, by way of a → b"):
        read_catalogue([tmp_path]).expand(["a"])


def test_a_task_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="MLFLOW_LMMS_TASK_FOLDERS"):
        read_catalogue([tmp_path / "nowhere"])


def test_our_example_tasks_are_found() -> None:
    catalogue = read_catalogue([Path(__file__).parents[1] / "examples" / "digits" / "tasks"])
    assert {"digits_vqa", "digits_parity", "digits_sum", "digits_robust"} <= set(catalogue.expand(["digits"]))
    assert catalogue.tasks["digits_vqa"].own
    assert installed_tasks_folder() is not None
