"""The YAML that lmms-eval's own --config takes, read as requests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_lmms.errors import InvalidRequestError
from mlflow_lmms.lmms_eval_config import _OURS, _SAME_NAME, read_lmms_eval_config, request_fields
from mlflow_lmms.request import EvaluationRequest

ENTRY = "model: qwen2_5_vl\ntasks: mmmu_val\n"


def read(tmp_path: Path, text: str, **overrides: Any) -> list[EvaluationRequest]:
    file = tmp_path / "config.yaml"
    file.write_text(text, encoding="utf-8")
    return read_lmms_eval_config(file, overrides)


def test_a_config_of_lmms_evals_is_a_request(tmp_path: Path) -> None:
    (request,) = read(
        tmp_path,
        """
model: qwen2_5_vl
model_args: pretrained=Qwen/Qwen2.5-VL-3B-Instruct,device_map=auto
tasks: mmmu_val,mme
batch_size: 1
log_samples: true
log_samples_suffix: qwen2_5_vl
output_path: "./logs/"
limit: 8
num_fewshot: 0
gen_kwargs: temperature=0,max_new_tokens=16
seed: [0, 1, 2, 3]
apply_chat_template: false
wandb_args: ""
""",
    )
    assert request == EvaluationRequest.parse(
        {
            "adapter": "qwen2_5_vl",
            "model_args": {"pretrained": "Qwen/Qwen2.5-VL-3B-Instruct", "device_map": "auto"},
            "tasks": ["mmmu_val", "mme"],
            "limit": 8,
            "num_fewshot": 0,
            "gen_kwargs": {"temperature": "0", "max_new_tokens": "16"},
            "seeds": {"python": 0, "numpy": 1, "torch": 2, "fewshot": 3},
        }
    )
    assert request.num_fewshot == 0


def test_a_list_is_several_requests(tmp_path: Path) -> None:
    requests = read(tmp_path, "- {model: dummy, tasks: ai2d}\n- {model: dummy, tasks: [mme, mmmu_val]}\n")
    assert [request.tasks for request in requests] == [("ai2d",), ("mme", "mmmu_val")]


def test_a_registered_model_and_fields_of_ours_may_stand_in_it(tmp_path: Path) -> None:
    (request,) = read(tmp_path, "model: models:/reader/3\ntasks: ai2d\nsuite: nightly\ngpus: 0\npriority: high\n")
    assert (request.model, request.adapter, request.suite, request.priority) == (
        "models:/reader/3",
        None,
        "nightly",
        "high",
    )


def test_names_may_be_written_with_dashes(tmp_path: Path) -> None:
    (request,) = read(tmp_path, ENTRY + "model-args: pretrained=a\nbatch-size: 4\nprocess-docs-parallel: true\n")
    assert (request.model_args, request.batch_size) == ({"pretrained": "a"}, 4)


def test_overrides_win(tmp_path: Path) -> None:
    (request,) = read(tmp_path, ENTRY + "limit: 8\n", limit=2, priority="low")
    assert (request.limit, request.priority) == (2, "low")


@pytest.mark.parametrize(("limit", "expected"), [("8", 8), ("8.0", 8), ("-1", None), ("'16'", 16), ("null", None)])
def test_limits_are_numbers_of_documents(tmp_path: Path, limit: str, expected: int | None) -> None:
    assert read(tmp_path, ENTRY + f"limit: {limit}\n")[0].limit == expected


@pytest.mark.parametrize(
    ("seed", "expected"),
    [("42", (42, 42, 42, 42)), ("'0,1,2'", (0, 1, 2, 1234)), ("0,1,2,3", (0, 1, 2, 3)), ("[7]", (7, 7, 7, 7))],
)
def test_seeds_are_taken_as_lmms_eval_takes_them(tmp_path: Path, seed: str, expected: tuple[int, ...]) -> None:
    assert tuple(read(tmp_path, ENTRY + f"seed: {seed}\n")[0].seeds.model_dump().values()) == expected


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("limit: 0.1", "is a share of the documents"),
        ("limit: many", "limit is a number of documents, got 'many'"),
        ("limit: .nan", "limit"),
        ("limit: .inf", "limit"),
        ("limit: [1]", "limit is a number"),
        ("limit: 0", "limit: Input should be greater than or equal to 1"),
        ("batch_size: auto", "batch_size='auto'"),
        ("batch_size: auto:4", "batch_size='auto:4'"),
        ("seed: 1,2", "seed is one number"),
        ("seed: 0,None,8,52", "seed is one number"),
        ("seed: [0, null, 8, 52]", "seed is one number"),
        ("seed: dice", "got 'dice'"),
        ("system_instruction: be brief", "system_instruction='be brief' is not supported"),
        ("apply_chat_template: true", "apply_chat_template=True is not supported"),
        ("trust_remote_code: true", "trust_remote_code=True is not supported"),
        ("baseline: a", "baseline='a' is not supported"),
        ("force_simple: true", "force_simple=True is not supported"),
        ("predict_only: true", "predict_only=True is not supported"),
        ("gen_kwargs: temperature", "NAME=VALUE"),
        ("tasks: [a, {task: b}]", "tasks"),
        ("offset: -1", "offset"),
    ],
)
def test_what_the_queue_cannot_give_is_named(tmp_path: Path, line: str, words: str) -> None:
    text = "".join(ENTRY.splitlines(keepends=True)[: 1 if line.startswith("tasks") else 2]) + line + "\n"
    with pytest.raises(InvalidRequestError, match=r"config\.yaml, entry 1: ") as caught:
        read(tmp_path, text)
    assert words in caught.value.message


def test_the_entry_at_fault_is_counted(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="entry 2: "):
        read(tmp_path, "- {model: dummy, tasks: ai2d}\n- {model: dummy}\n")


def test_variables_are_refused_without_being_repeated(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="name those that are secret with secrets") as caught:
        read(tmp_path, ENTRY + "env:\n  OPENAI_API_KEY: geheim\n")
    assert "geheim" not in caught.value.message


@pytest.mark.parametrize("text", ["", "just text", "[1, 2]", "1: 2\n", "- [model]"])
def test_what_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidRequestError, match="expected a mapping of lmms-eval's arguments"):
        read(tmp_path, text)


@pytest.mark.parametrize("text", ["model: [", "model: !!python/object:os.system {}", "made: 2024-13-45"])
def test_what_is_no_yaml_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidRequestError, match="cannot be read as YAML"):
        read(tmp_path, text)


def test_a_file_that_is_missing_no_text_or_huge_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="cannot be read as YAML"):
        read_lmms_eval_config(tmp_path / "nowhere.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidRequestError, match="cannot be read as YAML"):
        read_lmms_eval_config(tmp_path / "binary.yaml")
    (tmp_path / "huge.yaml").write_text("#" * 1_000_001)
    with pytest.raises(InvalidRequestError, match="larger than 1 MB"):
        read_lmms_eval_config(tmp_path / "huge.yaml")


ARGUMENTS = st.dictionaries(
    st.sampled_from(["model", "tasks", "limit", "seed", "batch_size", "gen_kwargs", "model_args", "suite", "x"]),
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.lists(st.integers(), max_size=4),
)


@given(ARGUMENTS)
def test_whatever_stands_in_it_is_taken_or_refused(arguments: dict[str, Any]) -> None:
    try:
        EvaluationRequest.parse(request_fields(arguments))
    except InvalidRequestError as error:
        assert error.message


@pytest.mark.lmms_eval
def test_the_arguments_that_we_leave_out_are_lmms_evals_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from lmms_eval.__main__ import parse_eval_args

    monkeypatch.setattr("sys.argv", ["lmms_eval"])
    parser, _ = parse_eval_args()
    names = {action.dest for action in parser._actions}
    assert names >= {*_OURS, *_SAME_NAME, "model", "batch_size", "seed"}
    for name in names:
        try:
            request_fields({name: "3"})
        except InvalidRequestError as error:
            assert name in error.message


def test_a_config_may_name_a_suite_and_choices_for_tasks(tmp_path: Path) -> None:
    (request,) = read(
        tmp_path, "model: a\nsuite: charts@2\nprimary: {chartqa: relaxed_overall}\nerrored: {policy: drop}\n"
    )
    assert (request.suite, request.suite_revision, request.primary) == ("charts", 2, {"chartqa": "relaxed_overall"})
    assert request.errored is not None and request.errored.policy == "drop"


@pytest.mark.parametrize("field", ["model", "seed", "batch_size", "tasks", "wandb_args", "unknown", "model_args"])
def test_a_config_that_unfolds_into_gigabytes_is_refused(tmp_path: Path, field: str) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    with pytest.raises(InvalidRequestError, match="unfolds to more than 100000 values"):
        read(tmp_path, "\n".join([*lines, f"{field}: *a11"]))


def test_a_config_that_is_nested_beyond_all_measure_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="cannot be read as YAML"):
        read(tmp_path, "[" * 50_000)
