"""Output folders read into the runner's files: each version's shape, filters, duplicates, slices, secrets."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any, NamedTuple

import output_folders as outputs
import pyarrow.parquet as pq
import pytest
from output_folders import SCORES, mean, row, rows, write_results, write_samples

from mlflow_lmms.importing.discovery import discover
from mlflow_lmms.importing.groups import group_definitions
from mlflow_lmms.importing.results_file import LM_EVAL, LMMS_EVAL, ResultsFile, read_results_file
from mlflow_lmms.importing.run_facts import describe_run, model_of
from mlflow_lmms.importing.scrubbed import scrubber_for_files
from mlflow_lmms.importing.task_import import ImportedTask, TaskImport, TaskOptions
from mlflow_lmms.names import Tag
from mlflow_lmms.reading.cluster_id import cluster_id
from mlflow_lmms.reading.errored import ErroredPolicy
from mlflow_lmms.reading.row_key import row_key
from mlflow_lmms.scrubbing import Scrubber
from mlflow_lmms.task_result import TaskResult, read_task_result


class Read(NamedTuple):
    """A task as it was imported."""

    task: ImportedTask
    result: TaskResult
    document: dict[str, Any]
    samples: list[dict[str, Any]]
    scores: list[dict[str, Any]]

    def value(self, metric: str = "exact_match", filter_name: str = "none") -> dict[str, Any]:
        """One metric of the document."""
        (found,) = [m for m in self.document["metrics"] if (m["metric"], m["filter"]) == (metric, filter_name)]
        return dict(found)

    @property
    def warnings(self) -> list[str]:
        """The warnings' names."""
        return [warning["name"] for warning in self.document["warnings"]]


class Reader:
    """Reads the one results file below a folder."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch

    def __call__(self, folder: Path, task: str = "my_vqa", **options: Any) -> Read:
        (found,) = discover([folder]).runs
        results = read_results_file(found.results)
        out = self._scratch / f"out{len(list(self._scratch.iterdir()))}"
        (out / "scratch").mkdir(parents=True)
        importer = TaskImport(results, out, Scrubber())
        samples = found.samples.get(task)
        told: list[int] = []
        read = importer.read(results.tasks[task], samples, TaskOptions(**options), out / "scratch", told.append)
        file = importer.write(read)
        result = read_task_result(file)
        return Read(
            read,
            result,
            json.loads(file.read_text(encoding="utf-8")),
            pq.read_table(out / result.samples_file).to_pylist(),
            pq.read_table(out / result.scores_file).to_pylist(),
        )


@pytest.fixture
def read(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    return Reader(tmp_path_factory.mktemp("imported"))


def results_of(folder: Path) -> ResultsFile:
    (found,) = discover([folder]).runs
    return read_results_file(found.results)


@pytest.mark.parametrize("version", outputs.VERSIONS)
def test_every_version_is_read_and_nothing_is_said_against_it(version: str, tmp_path: Path, read: Reader) -> None:
    outputs.VERSIONS[version](tmp_path)
    task = "gsm8k" if version == "lm-eval 0.4" else "my_vqa"
    found = read(tmp_path, task)
    assert found.warnings == []
    assert found.result.samples == len(SCORES) == len(found.samples)
    filter_name = "flexible-extract" if task == "gsm8k" else "none"
    metric = found.value(filter_name=filter_name)
    assert (metric["value"], metric["native"], metric["factor"], metric["level"]) == (0.8, 0.8, 1.0, "sample")
    assert (metric["n"], metric["missing"], metric["binary"]) == (10, 0, True)
    assert metric["mean"] == pytest.approx(0.8)
    assert metric["sd"] == pytest.approx(0.4216370)
    assert metric["stderr"] == 0.13
    assert found.result.primary_metric is not None
    assert found.result.primary_metric.filter == filter_name
    first = found.samples[3]
    assert first["doc_id"] == 3
    assert first["responses"] == (["it is 3"] if task == "gsm8k" else ["answer 3"])
    assert first[f"score:exact_match:{filter_name}"] == 1.0
    assert first["row_key"] == row_key(3, first["input"], first["target"])


def test_the_older_and_newer_fields_are_kept(tmp_path: Path, read: Reader) -> None:
    outputs.version_0_3(tmp_path / "old")
    old = read(tmp_path / "old")
    assert [own["doc:category"] for own in old.samples] == ["cat"] * 5 + ["dog"] * 5
    assert old.samples[0]["doc:ratio"] == 0.5
    assert old.samples[0]["input"] == "question 0"
    pieces = [piece for piece in old.result.slices if piece.dimension == "category"]
    assert [(piece.value, piece.n) for piece in pieces] == [("cat", 5), ("dog", 5)]
    assert [piece.score for piece in pieces] == pytest.approx([0.8, 0.8])
    outputs.version_0_7(tmp_path / "new")
    new = read(tmp_path / "new")
    assert (new.samples[0]["tokens:input"], new.samples[0]["tokens:output"]) == (300, 12)
    assert new.document["usage"] == {
        "input_tokens": 3000,
        "output_tokens": 120,
        "reasoning_tokens": 0,
        "samples": 10,
    }
    assert new.document["fingerprint"]["lmms_eval"] == "0.7.3"
    assert new.document["fingerprint"]["origin"] == LMMS_EVAL
    assert new.document["pairing"] == "row"


def test_documents_of_lm_eval_are_known_by_their_content(tmp_path: Path, read: Reader) -> None:
    outputs.version_lm_eval(tmp_path)
    found = read(tmp_path, "gsm8k")
    assert found.document["fingerprint"]["origin"] == LM_EVAL
    assert found.document["pairing"] == "content"
    assert len({own["doc_hash"] for own in found.samples}) == 10
    assert [own["doc_hash"] for own in found.scores] == sorted(own["doc_hash"] for own in found.samples)
    assert found.document["fingerprint"]["dataset"]
    assert found.samples[3]["filtered:flexible-extract"] == "3"
    assert found.samples[3]["filtered:strict-match"] == "[invalid]"
    assert found.samples[3]["input"] == "Question: 3\nAnswer:"


def test_times_are_the_files_own(tmp_path: Path) -> None:
    outputs.version_0_7(tmp_path / "utc")  # names its time zone
    assert results_of(tmp_path / "utc").ended_at == 1735732800 + 90.5
    outputs.sound(tmp_path / "default")  # lmms-eval writes Singapore's time unless it is told another
    assert results_of(tmp_path / "default").ended_at == 1735732800 - 8 * 3600 + 90.5
    outputs.version_lm_eval(tmp_path / "lm-eval")
    assert results_of(tmp_path / "lm-eval").ended_at == 1735732800.25 + 90.5


def two_filters() -> list[outputs.Row]:
    """As lmms-eval writes them: no column for the filter, all documents of the first before those of the second."""
    strict = [row(doc_id, exact_match=0.0, filtered_resps="[invalid]") for doc_id in range(10)]
    flexible = [row(doc_id, exact_match=score, resps=[f"so it is {doc_id}"]) for doc_id, score in enumerate(SCORES)]
    return strict + flexible


def by_rank(lines: list[outputs.Row], world: int = 2) -> list[outputs.Row]:
    """As several processes gather them: all of one, then all of the next; each has every `world`-th document."""
    return [line for rank in range(world) for line in lines if line["doc_id"] % world == rank]


FILTERED = {"exact_match,strict-match": 0.0, "exact_match,flexible-extract": 0.8}


@pytest.mark.parametrize("world", [1, 2, 3])
def test_the_nth_row_of_a_document_is_of_the_nth_filter(world: int, tmp_path: Path, read: Reader) -> None:
    write_samples(tmp_path, "my_vqa", by_rank(two_filters(), world))
    write_results(tmp_path, {"my_vqa": FILTERED})
    found = read(tmp_path)
    assert found.warnings == []
    assert found.value(filter_name="strict-match")["factor"] == 1.0
    assert found.value(filter_name="flexible-extract")["factor"] == 1.0
    assert [own["doc_id"] for own in found.samples] == list(range(10))
    assert [own["score:exact_match:flexible-extract"] for own in found.samples] == list(SCORES)
    assert {own["filtered:strict-match"] for own in found.samples} == {"[invalid]"}
    assert found.samples[4]["filtered:flexible-extract"] == "answer 4"
    assert found.result.samples == 10


def test_filters_are_named_by_the_task_where_it_lists_them(tmp_path: Path, read: Reader) -> None:
    listed = {
        "output_type": "generate_until",
        "filter_list": [{"name": "strict-match"}, {"name": "flexible-extract"}],
    }
    write_samples(tmp_path, "my_vqa", two_filters())
    turned = dict(reversed(FILTERED.items()))
    write_results(tmp_path, {"my_vqa": turned}, configs={"my_vqa": listed})
    assert read(tmp_path).value(filter_name="flexible-extract")["factor"] == 1.0


def test_a_document_that_is_there_twice_is_said_and_stored_once(tmp_path: Path, read: Reader) -> None:
    lines = rows()
    write_samples(tmp_path, "my_vqa", [*lines, lines[9]])
    write_results(tmp_path, {"my_vqa": {"exact_match,none": 9 / 11}})  # lmms-eval counts it twice
    found = read(tmp_path)
    assert found.warnings == ["duplicate_ids"]
    assert len(found.samples) == 10
    (warning,) = found.document["warnings"]
    assert (warning["count"], warning["examples"]) == (1, ["doc_id 9"])


def test_two_runs_in_one_file_are_noticed_and_no_score_is_taken_from_it(tmp_path: Path, read: Reader) -> None:
    other = [{**own, "exact_match": 0.0} for own in rows()]
    mixed = [line for pair in zip(rows(), other, strict=True) for line in pair]
    write_samples(tmp_path, "my_vqa", mixed)
    write_results(tmp_path, {"my_vqa": {"exact_match,none": 0.8}})
    found = read(tmp_path)
    assert "duplicate_ids" in found.warnings
    assert found.value()["factor"] is None
    assert found.scores[0].keys() == {"doc_hash", "row_key", "doc_id"}
    assert any("two evaluations" in warning["message"] for warning in found.document["warnings"])


def test_rows_come_in_any_order(tmp_path: Path, read: Reader) -> None:
    lines = rows([float(number % 3 > 0) for number in range(3000)])
    random.Random(7).shuffle(lines)
    write_samples(tmp_path, "my_vqa", lines)
    write_results(tmp_path, {"my_vqa": {"exact_match,none": 2 / 3}}, documents=3000)
    found = read(tmp_path)
    assert [own["doc_id"] for own in found.samples] == list(range(3000))
    keys = [own["row_key"] for own in found.scores]
    assert keys == sorted(keys)
    by_id = {own["doc_id"]: own["score:exact_match:none"] for own in found.scores}
    assert by_id == {number: float(number % 3 > 0) for number in range(3000)}


def test_a_dict_gives_its_number_and_its_slices(tmp_path: Path, read: Reader) -> None:
    values = [{"overall": score, "task": "sound" if at % 10 < 3 else "music"} for at, score in enumerate(SCORES * 2)]
    write_samples(tmp_path, "my_vqa", rows(values, "accuracy"))
    write_results(tmp_path, {"my_vqa": {"accuracy,none": 80.0}}, documents=20)
    found = read(tmp_path)
    metric = found.value("accuracy")
    assert (metric["factor"], metric["scale"]["high"], metric["mean"]) == (100.0, 100.0, pytest.approx(0.8))
    sizes = {piece.value: piece.n for piece in found.result.slices if piece.dimension == "task"}
    scores = {piece.value: piece.score for piece in found.result.slices if piece.dimension == "task"}
    assert sizes == {"music": 14, "sound": 6}
    assert scores == pytest.approx({"music": 600 / 7, "sound": 200 / 3})
    assert found.document["dimension_sources"]["task"] == {"source": "scoring", "outcome": False}
    assert found.samples[0]["doc:task"] == "sound"


def test_a_score_that_samples_do_not_give_is_a_corpus_score(tmp_path: Path, read: Reader) -> None:
    write_samples(tmp_path, "my_asr", rows([[3, 1]] * 10, "wer"))
    write_results(tmp_path, {"my_asr": {"wer,none": 12.5}})
    metric = read(tmp_path, "my_asr").value("wer")
    assert (metric["value"], metric["level"], metric["factor"], metric["n"]) == (12.5, "corpus", None, 10)


def test_a_task_without_samples_keeps_its_numbers(tmp_path: Path, read: Reader) -> None:
    write_results(tmp_path, {"my_vqa": {"exact_match,none": 0.8}}, documents=500)
    found = read(tmp_path)
    assert found.warnings == ["samples_missing"]
    assert (found.result.samples, found.result.documents) == (0, 500)
    metric = found.value()
    assert (metric["value"], metric["n"], metric["level"], metric["mean"]) == (0.8, 500, "none", None)
    assert found.document["fingerprint"]["rows"] is None
    assert found.samples == [] == found.scores


@pytest.mark.parametrize(("policy", "value", "n"), [("as_scored", 0.8, 10), ("drop", 8 / 9, 9), ("wrong", 0.8, 10)])
def test_the_policy_for_errored_samples(policy: Any, value: float, n: int, tmp_path: Path, read: Reader) -> None:
    lines = rows()
    lines[1]["filtered_resps"] = "  "  # one of the two wrong ones
    write_samples(tmp_path, "my_vqa", lines)
    write_results(tmp_path, {"my_vqa": {"exact_match,none": 0.8}})
    found = read(tmp_path, policy=ErroredPolicy(policy))
    metric = found.value()
    assert (metric["value"], metric["n"], metric["native"]) == (pytest.approx(value), n, 0.8)
    assert found.document["errored"] == {
        "count": 1,
        "reasons": {"blank answer": 1},
        "policy": policy,
        "fail_above": None,
    }
    assert [own["errored"] for own in found.samples] == [None, "blank answer", *[None] * 8]


def test_too_many_errored_samples_fail_the_task(tmp_path: Path, read: Reader) -> None:
    lines = rows()
    lines[1]["filtered_resps"] = ""
    write_samples(tmp_path, "my_vqa", lines)
    write_results(tmp_path, {"my_vqa": {"exact_match,none": 0.8}})
    assert read(tmp_path, policy=ErroredPolicy("drop", 0.2)).task.failed is None
    failed = read(tmp_path, policy=ErroredPolicy("drop", 0.05)).task.failed
    assert failed is not None
    assert "1 of 10" in failed


def test_the_users_own_primary_metric_wins(tmp_path: Path, read: Reader) -> None:
    lines = [{**own, "anls": 0.25} for own in rows()]
    write_samples(tmp_path, "my_vqa", lines)
    write_results(tmp_path, {"my_vqa": {"exact_match,none": 0.8, "anls,none": 0.25}})
    assert read(tmp_path).document["primary"]["metric"] == "exact_match"
    assert read(tmp_path, primary="anls").document["primary"]["reason"] == "chosen by the user"
    assert "primary_not_found" in read(tmp_path, primary="bleu").warnings


def test_no_secret_is_kept(tmp_path: Path, read: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_JUDGE_TOKEN", "correct-horse-battery")
    secrets = ["hf_0123456789abcdefghij", "sk-0123456789abcdefghij", "correct-horse-battery"]
    lines = rows()
    lines[0]["input"] = f"use {secrets[0]}"
    lines[1]["filtered_resps"] = f"api_key={secrets[1]}"
    write_samples(tmp_path, "my_vqa", lines)
    entry = {"exact_match,none": 0.8, "note": f"key {secrets[1]}"}
    arguments = f"model=gpt-4o,api_key={secrets[1]},token=plain-word,base_url=http://me:{secrets[2]}@host/v1"
    path = write_results(tmp_path, {"my_vqa": entry}, config={"model": "openai", "model_args": arguments})
    found = read(tmp_path)
    stored = json.dumps([found.document, found.samples])
    assert not [secret for secret in secrets if secret in stored]
    assert found.samples[0]["input"] == "use ***"
    assert found.samples[0]["row_key"] == row_key(0, lines[0]["input"], "target 0")  # pairs with a run that knows it
    results, scrubber = read_results_file(path), scrubber_for_files()
    run = describe_run(results, model_of(results, scrubber), scrubber, source="import")
    assert run.params["model_args"] == "model=gpt-4o,api_key=***,token=***,base_url=***"
    assert not [secret for secret in (*secrets, "plain-word") if secret in json.dumps([run.params, run.tags])]


def test_half_a_surrogate_pair_and_a_nul_are_stored_as_something(tmp_path: Path, read: Reader) -> None:
    lines = rows()
    lines[0]["filtered_resps"] = "\ud83d and \x00"
    file = write_samples(tmp_path, "my_vqa", [])
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="ascii")
    write_results(tmp_path, {"my_vqa": {"exact_match,none": 0.8}})
    assert read(tmp_path).samples[0]["responses"][0].startswith("?")


def test_the_names_are_those_of_a_live_run(tmp_path: Path) -> None:
    outputs.sound(tmp_path)
    results, scrubber = results_of(tmp_path), Scrubber()
    run = describe_run(results, model_of(results, scrubber), scrubber, source="import")
    assert run.name == "Qwen/Qwen2-VL-2B-Instruct · my_vqa"
    assert run.params == {
        "model": "Qwen/Qwen2-VL-2B-Instruct",
        "adapter": "qwen2_vl",
        "model_args": "pretrained=Qwen/Qwen2-VL-2B-Instruct,dtype=bfloat16",
        "tasks": "my_vqa",
        "offset": "0",
        "batch_size": "4",
        "num_fewshot": "0",
        "seed.python": "0",
        "seed.numpy": "1234",
        "seed.torch": "1234",
        "seed.fewshot": "1234",
    }
    assert run.tags[Tag.SOURCE] == "import"
    assert run.tags[Tag.UNREGISTERED] == "true"
    assert run.ended_at - run.started_at == 90.5


@pytest.mark.parametrize("as_text", [False, True])
def test_a_group_is_the_suite_and_is_computed_anew(as_text: bool, tmp_path: Path, read: Reader) -> None:
    members = {"mmlu": ["a", "b"], "a": [], "b": []}
    tasks = {"mmlu": {"acc,none": 0.7}, "a": {"acc,none": 0.9}, "b": {"acc,none": 0.6}}
    path = write_results(
        tmp_path,
        tasks,
        group_subtasks=str(members) if as_text else members,
        configs={name: {} for name in "ab"},
        n_samples={"a": {"original": 10, "effective": 10}, "b": {"original": 20, "effective": 20}},
    )
    results = read_results_file(path)
    assert (list(results.tasks), list(results.groups)) == (["a", "b"], ["mmlu"])
    run = describe_run(results, model_of(results, Scrubber()), Scrubber(), source="import")
    assert run.suite == "mmlu"
    metrics = {name: read(tmp_path, name).task.metrics for name in "ab"}
    (group,) = group_definitions(results, metrics)
    assert group.members == ("a", "b")
    assert [(own.metric, own.weight_by_size) for own in group.aggregates] == [("acc", True)]


def test_the_model_is_named_by_what_there_is(tmp_path: Path) -> None:
    named = {
        "pretrained=a/b,dtype=x": "a/b",
        "model=c/d": "c/d",
        "dtype=bfloat16": "from the file",
        "not arguments at all": "from the file",
    }
    for at, (arguments, name) in enumerate(named.items()):
        folder = tmp_path / str(at)
        outputs.sound(folder, config={"model": "vllm", "model_args": arguments}, model_name="from the file")
        assert model_of(results_of(folder), Scrubber()).name == name
    outputs.sound(tmp_path / "none", config={"model": "vllm"}, model_name="")
    assert model_of(results_of(tmp_path / "none"), Scrubber()).name == "vllm"


def test_a_mean_over_some_of_the_documents_is_one(tmp_path: Path, read: Reader) -> None:
    lines = rows()
    for line in lines[5:]:
        line["human"] = line["exact_match"]
    write_samples(tmp_path, "my_vqa", lines)
    write_results(tmp_path, {"my_vqa": {"exact_match,none": 0.8, "human,none": mean(SCORES[5:])}})
    found = read(tmp_path)
    metric = found.value("human")
    assert (metric["factor"], metric["n"], metric["missing"]) == (1.0, 5, 5)
    assert found.samples[0]["score:human:none"] is None


def test_documents_in_clusters_widen_the_interval(tmp_path: Path, read: Reader) -> None:
    scores = [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    videos: list[str | None] = ["a", "a", "a", "b", "b", "b", None, None]  # the last two: each by itself
    values = [{"score": score, "video": video} for score, video in zip(scores, videos, strict=True)]
    write_samples(tmp_path, "my_vqa", rows(values, "acc"))
    settings = {"output_type": "generate_until", "cluster_key": "video"}
    write_results(tmp_path, {"my_vqa": {"acc,none": 0.5}}, documents=8, configs={"my_vqa": settings})
    found = read(tmp_path, dimensions=("video",))
    metric = found.value("acc")
    # clusters' sums of deviations from 0.5: 1.5, -1.5, 0.5, -0.5
    assert metric["clusters"] == 4
    assert metric["clustered_stderr"] == pytest.approx((5.0 * 4 / 3) ** 0.5 / 8)
    beside = {row["doc_id"]: (row["cluster"], row["dim:video"]) for row in found.scores}
    assert beside == {number: (cluster_id(video), video) for number, video in enumerate(videos)}


def test_groups_of_long_prompts_stand_beside_the_scores(tmp_path: Path, read: Reader) -> None:
    told = rows([float(at % 2) for at in range(40)], "acc")
    for at, line in enumerate(told):
        line["input"] = "x" * (10 + 10 * (at // 10))
    write_samples(tmp_path, "my_vqa", told)
    write_results(tmp_path, {"my_vqa": {"acc,none": 0.5}}, documents=40)
    found = read(tmp_path)
    beside = [row["dim:prompt_length"] for row in sorted(found.scores, key=lambda row: int(row["doc_id"]))]
    assert beside == [name for name in ("10", "20", "30", "40") for _ in range(10)]
    shown = {piece.value: piece.n for piece in found.result.slices if piece.dimension == "prompt_length"}
    assert shown == {"10": 10, "20": 10, "30": 10, "40": 10}


def test_dimensions_that_a_task_declares_are_kept(tmp_path: Path, read: Reader) -> None:
    values = [{"score": score, "kind": f"kind {at}"} for at, score in enumerate(SCORES)]
    write_samples(tmp_path, "my_vqa", rows(values, "acc"))
    settings = {"output_type": "generate_until", "metadata": {"dimensions": ["kind", ["no name"], 7]}}
    write_results(tmp_path, {"my_vqa": {"acc,none": 0.8}}, configs={"my_vqa": settings})
    found = read(tmp_path)
    assert found.document["dimension_sources"]["kind"]["source"] == "declared"
    assert len([piece for piece in found.result.slices if piece.dimension == "kind"]) == 10


@pytest.mark.parametrize(("told", "limit"), [(40.0, "40"), (0.1, "0.1"), (-1, None), (None, None), ("many", None)])
def test_a_limit_is_a_number_of_documents_or_a_share(told: Any, limit: str | None, tmp_path: Path) -> None:
    outputs.sound(tmp_path, config={"model": "vllm", "limit": told})
    results = results_of(tmp_path)
    run = describe_run(results, model_of(results, Scrubber()), Scrubber(), source="import")
    assert run.params.get("limit") == limit


def test_either_programs_names_go_with_either_form_of_date(tmp_path: Path, read: Reader) -> None:
    write_samples(tmp_path, "my_vqa", rows(), name=f"samples_my_vqa_{outputs.DATE}.jsonl")
    write_results(tmp_path, {"my_vqa": {"exact_match,none": 0.8}}, name=f"results_{outputs.DATE}.json")
    assert read(tmp_path).result.samples == 10
