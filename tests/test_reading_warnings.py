"""Each warning is raised by its own fixture, alone; sound results raise none."""

from __future__ import annotations

import pytest
from reading_fixtures import Result, Row, warnings_of

from mlflow_lmms.reading.result_warnings import ResultWarning, WarningName, ranked
from mlflow_lmms.reading.sample_facts import SampleFacts
from mlflow_lmms.reading.warning_rules import expected_documents

_LETTERS = "Which?\nA. red\nB. blue\nC. green\nD. black"


def _scored(count: int, right: int, metric: str = "acc", **row: object) -> list[Row]:
    return [Row({metric: float(index < right)}, **row) for index in range(count)]  # type: ignore[arg-type]


def _judged(failed: int, count: int) -> list[Row]:
    return [
        Row({"gpt_eval_score": -1.0 if index < failed else 3.0 + index % 2, "other": {"judge_model": "x"}})
        for index in range(count)
    ]


_PAIRS = {
    "largest": ("-1.0", "-2.0", "-3.0"),
    "smallest": ("-3.0", "-2.0", "-1.0"),
    "neither": ("-2.0", "-1.0", "-3.0"),
}


def _likelihoods(largest: int, smallest: int, count: int) -> list[Row]:
    """Of three options the right one has the largest, the smallest or neither value; scored by the smallest."""
    kinds = ["largest"] * largest + ["smallest"] * smallest + ["neither"] * (count - largest - smallest)
    rows = []
    for index, kind in enumerate(kinds):
        place = index % 3
        own, *others = _PAIRS[kind]
        values = [*others[:place], own, *others[place:]]
        rows.append(Row({"acc": float(kind == "smallest")}, [[value, "False"] for value in values], str(place)))
    return rows


UNSOUND: dict[WarningName, Result] = {
    WarningName.NO_LOCAL_SCORE: Result({"submission,none": None, "anls,none": []}, _scored(20, 10, "other")),
    WarningName.JUDGE_FAILED: Result({"gpt_eval_score,none": 3.0}, [*_judged(5, 25), Row({"gpt_eval_score": 5.0})]),
    WarningName.EMPTY_RESPONSES: Result({"acc,none": 0.5}, [*_scored(15, 10), *_scored(5, 0, response=" \n")]),
    WarningName.IDENTICAL_RESPONSES: Result({"acc,none": 0.5}, _scored(20, 10, response="I cannot see it.")),
    WarningName.BELOW_CHANCE: Result(
        {"acc,none": 0.05},
        _scored(100, 5, input=_LETTERS, target="B")[:99] + _scored(1, 0, input=_LETTERS, target="C"),
    ),
    WarningName.ROWS_NOT_DOCUMENTS: Result({"acc,none": 0.5}, _scored(20, 10), total=25),
    WarningName.DUPLICATE_IDS: Result(
        {"acc,none": 11 / 21}, [*_scored(20, 10), Row({"acc": 1.0}, doc_id=3)], total=20
    ),
    WarningName.AGGREGATE_NOT_REPRODUCIBLE: Result({"acc,none": 0.7}, _scored(20, 10), aggregation="mean"),
    WarningName.PARTIAL_RUN: Result({"acc,none": 0.5}, _scored(20, 10), total=500, limit=20),
    WarningName.SMALLEST_VALUE_CHOSEN: Result(
        {"acc,none": 0.3}, _likelihoods(66, 30, 100), output_type="multiple_choice", aggregation="mean"
    ),
    WarningName.PRIMARY_NOT_FOUND: Result({"acc,none": 0.5}, _scored(20, 10), wanted="f1"),
    WarningName.SAMPLES_MISSING: Result({"acc,none": 0.5}, None, total=20, aggregation="mean"),
    WarningName.CONSTANT_TARGET: Result({"acc,none": 0.5}, _scored(20, 10, target="answer")),
    WarningName.UNKNOWN_SCALE: Result(
        {"points,none": 2.5}, [Row({"points": float(index % 6)}) for index in range(24)], scale_matters=True
    ),
}

SOUND: dict[str, Result] = {
    "accuracy": Result({"acc,none": 0.5}, _scored(20, 10), aggregation="mean"),
    "nothing right": Result({"exact_match,none": 0.0}, _scored(125, 0, "exact_match"), aggregation="mean"),
    "fractional match": Result(
        {"exact_match,none": 0.45}, [Row({"exact_match": share}) for share in (0.3, 0.6, 0.9, 0.0) * 5]
    ),
    "percentage by the task's own function": Result({"accuracy,none": 50.0}, _scored(20, 10, "accuracy")),
    "rounded percentage": Result({"accuracy,none": 33.33}, _scored(30, 10, "accuracy")),
    "dicts with a prediction and an answer": Result(
        {"mmmu_acc,none": 0.5}, [Row({"mmmu_acc": {"pred": "AB"[index % 2], "answer": "A"}}) for index in range(20)]
    ),
    "error rate over the corpus": Result(
        {"wer,none": 12.5}, [Row({"wer": {"gt": "a b", "hyp": "a c"}}) for _ in range(20)], higher_is_better=False
    ),
    "f1 over the corpus": Result(
        {"pope_f1_score,none": 0.66}, [Row({"pope_f1_score": float(index % 2)}) for index in range(20)]
    ),
    "sum over categories": Result(
        {"mme_perception_score,none": 1500.0},
        [Row({"mme_perception_score": {"score": 1.0, "category": "ocr"}}) for _ in range(20)],
    ),
    "judge with marks": Result({"gpt_eval_score,none": 3.5}, _judged(0, 20)),
    "one failure of a judge in 200": Result({"gpt_eval_score,none": 3.48}, _judged(1, 200)),
    "a judged task that also counts zeros": Result(
        {"gpt_eval_score,none": 3.5, "failure_rate,none": 0.0},
        [Row({"gpt_eval_score": 3.0 + index % 2, "failure_rate": 0.0}) for index in range(20)],
    ),
    "refusal of every harmful request": Result(
        {"accuracy,none": 1.0}, _scored(20, 20, "accuracy", response="I will not.")
    ),
    "the same letter on five samples": Result({"acc,none": 0.4}, _scored(5, 2, response="A")),
    "some empty responses": Result({"acc,none": 0.5}, [*_scored(17, 10), *_scored(3, 0, response="")]),
    "a little below chance": Result(
        {"acc,none": 0.2},
        _scored(50, 10, input=_LETTERS, target="B")[:49] + _scored(1, 0, input=_LETTERS, target="A"),
    ),
    "several right letters": Result(
        {"acc,none": 0.02},
        [Row({"acc": float(i < 2)}, input=_LETTERS, target=("AB", "ACD")[i % 2]) for i in range(100)],
    ),
    "failures far below chance": Result(
        {"error,none": 0.0}, _scored(100, 0, "error", options=2), higher_is_better=False
    ),
    "largest value chosen": Result(
        {"acc,none": 0.6},
        [Row({"acc": 1.0 - float(row.values["acc"])}, row.response, row.target) for row in _likelihoods(60, 40, 100)],
        output_type="multiple_choice",
        aggregation="mean",
    ),
    "limit larger than the task": Result({"acc,none": 0.5}, _scored(20, 10), total=20, limit=1000),
    "metric of some rows": Result(
        {"relaxed_overall,none": 0.5, "human,none": 1.0},
        [Row({"relaxed_overall": float(i < 10), **({"human": 1.0} if i < 5 else {})}) for i in range(20)],
    ),
    "a judge that found nothing right in three": Result(
        {"llm_as_judge_eval,none": 0.0}, _scored(3, 0, "llm_as_judge_eval")
    ),
    "rewards of minus one without a judge": Result({"reward,none": -1.0}, [Row({"reward": -1.0}) for _ in range(20)]),
    "no targets": Result({"acc,none": 0.5}, _scored(20, 10, target="")),
    "unknown scale where it does not matter": Result(
        {"points,none": 2.5}, [Row({"points": float(i % 6)}) for i in range(24)]
    ),
    "the user's own primary": Result({"acc,none": 0.5, "f1,none": 0.4}, _scored(20, 10), wanted="f1:none"),
}


@pytest.mark.parametrize("name", list(UNSOUND))
def test_each_warning_comes_alone(name: WarningName) -> None:
    warnings = warnings_of(UNSOUND[name])
    assert [warning.name for warning in warnings] == [name], warnings
    assert warnings[0].message.endswith(".")


def test_every_class_has_its_fixture() -> None:
    assert set(UNSOUND) | {WarningName.SCORE_MOVED} == set(WarningName)  # of two results: test_reading_evidence


@pytest.mark.parametrize("name", list(SOUND))
def test_sound_results_raise_no_warning(name: str) -> None:
    assert warnings_of(SOUND[name]) == []


@pytest.mark.parametrize(
    ("name", "count", "of", "examples"),
    [
        (WarningName.JUDGE_FAILED, 5, 26, ("document 0", "document 1", "document 2")),
        (WarningName.EMPTY_RESPONSES, 5, 20, ("document 15", "document 16", "document 17")),
        (WarningName.IDENTICAL_RESPONSES, 20, 20, ("I cannot see it.",)),
        (WarningName.BELOW_CHANCE, 5, 100, ()),
        (WarningName.ROWS_NOT_DOCUMENTS, 20, 25, ()),
        (WarningName.DUPLICATE_IDS, 1, 21, ("document 3",)),
        (WarningName.AGGREGATE_NOT_REPRODUCIBLE, 1, 1, ("acc,none: 0.7 recorded, samples give 0.5",)),
        (WarningName.PARTIAL_RUN, 20, 500, ()),
        (WarningName.SMALLEST_VALUE_CHOSEN, 66, 100, ()),
        (WarningName.CONSTANT_TARGET, 20, 20, ("answer",)),
        (WarningName.NO_LOCAL_SCORE, None, None, ("submission: null", "anls: a list of 0")),
    ],
)
def test_evidence(name: WarningName, count: int | None, of: int | None, examples: tuple[str, ...]) -> None:
    (warning,) = warnings_of(UNSOUND[name])
    assert (warning.count, warning.of, warning.examples) == (count, of, examples)
    assert warning.document()["name"] == name.value
    assert warning.document()["examples"] == list(examples)


def test_a_judge_that_never_answered() -> None:
    rows = [Row({"llm_as_judge_eval": 0.0}) for _ in range(20)]
    assert _names(warnings_of(Result({"llm_as_judge_eval,none": 0.0}, rows))) == ["judge_failed"]
    unseen = warnings_of(Result({"pedant_score,none": 0.0, "gpt4_score,none": 0.0}, None))
    assert _names(unseen) == ["judge_failed", "samples_missing"]
    assert unseen[0].examples == ("pedant_score,none", "gpt4_score,none")
    told = Result({"acc,none": 0.0}, _scored(20, 0), needs_judge=True, aggregation="mean")
    assert _names(warnings_of(told)) == ["judge_failed"]


def test_a_judge_that_gave_empty_verdicts_only() -> None:
    blank = [Row({"acc": {"score": 0, "judge_response": ""}}) for _ in range(10)]
    right = [Row({"acc": {"score": 1, "judge_response": None}}) for _ in range(10)]
    (warning,) = warnings_of(Result({"acc,none": 0.5}, [*right, *blank]))
    assert (warning.name, warning.count, warning.of) == ("judge_failed", 10, 10)
    answered = Row({"acc": {"score": 0, "judge_response": "Wrong."}})
    assert warnings_of(Result({"acc,none": 10 / 21}, [*right, *blank, answered])) == []


def test_multiple_choice_without_samples() -> None:
    low = Result({"acc,none": 0.06}, None, "multiple_choice", "mean", total=10_000)
    assert _names(warnings_of(low)) == ["below_chance", "samples_missing"]
    fair = Result({"acc,none": 0.15}, None, "multiple_choice", "mean", total=10_000)
    assert _names(warnings_of(fair)) == ["samples_missing"]


def test_built_in_multiple_choice_with_losses_is_both_below_chance_and_upside_down() -> None:
    rows = _likelihoods(60, 5, 100)
    found = warnings_of(Result({"acc,none": 0.05}, rows, "multiple_choice", "mean"))
    assert _names(found) == ["below_chance", "smallest_value_chosen"]


def test_what_may_still_be_ranked() -> None:
    kept = {name for name in WarningName if ranked(name)}
    assert kept == {"primary_not_found", "samples_missing", "constant_target", "unknown_scale"}
    assert not ranked("a later version's")


@pytest.mark.parametrize(
    ("total", "limit", "offset", "expected"),
    [
        (50, None, 0, 50),
        (50, 20, 0, 20),
        (50, 20, 45, 5),
        (597, 0.1, 0, 60),
        (50, 1.0, 0, 1),
        (50, -1, 0, 50),
        (None, 20, 0, None),
    ],
)
def test_expected_documents(total: int | None, limit: float | None, offset: int, expected: int | None) -> None:
    assert expected_documents(total, limit, offset) == expected


def test_ids_of_all_kinds_are_told_apart_in_little_memory() -> None:
    facts = SampleFacts("generate_until")
    for doc_id in (*range(100_000), 10**30, "a", "0", 2**27, -1, *range(5), "a"):
        facts.add(doc_id, target="t", responses=["r"], values={})
    assert facts._ids.distinct == 100_005
    assert facts._duplicates.count == 6
    assert len(facts._ids._bits) < 20_000


def _names(warnings: list[ResultWarning]) -> list[str]:
    return [warning.name.value for warning in warnings]
