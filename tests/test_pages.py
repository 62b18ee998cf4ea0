"""The pages on real services: what they show, that nothing hostile gets through, and what forms do."""

from __future__ import annotations

import re
from html import escape

import pytest
from evaluation_world import EvaluationWorld, Seeded, enter
from flask.testing import FlaskClient
from runner_output import EVIL

from mlflow_lmms.evaluation_queue import EvaluationQueue
from mlflow_lmms.states import State


def opened(visitor: FlaskClient, path: str, status: int = 200) -> str:
    """The page's HTML, which never holds a hostile text unescaped."""
    answer = visitor.get(path)
    assert answer.status_code == status, answer.text
    assert answer.mimetype == "text/html"
    assert EVIL not in answer.text
    return answer.text


def test_the_leaderboard_shows_scores_that_open_what_was_wrong(seeded: Seeded, visitor: FlaskClient) -> None:
    page = opened(visitor, "/lmms/leaderboard")
    for model, run_id in seeded.finished.items():
        assert f"{model} v1" in page
        assert f'href="/lmms/evaluations/{run_id}/samples/digits_vqa?wrong=1"' in page
        assert f'href="/lmms/evaluations/{run_id}"' in page
    assert "↑ higher is better" in page
    assert page.index("k-nn v1") < page.index("evil v1")
    assert "k-nn v1 beats evil v1" in page


def test_the_leaderboard_sorts_and_keeps_its_filters(seeded: Seeded, visitor: FlaskClient) -> None:
    page = opened(visitor, "/lmms/leaderboard?sort=digits_vqa&dir=ascending&suite=digits_vqa%20%2B1")
    order = re.findall(r'<th scope="row">(\S+) v1', page)
    assert order == ["evil", "centroid", "k-nn"]
    assert 'aria-sort="ascending"' in page
    assert "suite=digits_vqa+%2B1&amp;sort=model" in page


def test_a_filter_without_scores_says_so_and_how_to_go_back(visitor: FlaskClient) -> None:
    page = opened(visitor, "/lmms/leaderboard?suite=nothing")
    assert "No score matches" in page and 'href="/lmms/leaderboard"' in page


def test_an_empty_server_says_how_to_begin(
    mlflow_uri: str, empty_valkey: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("empty")
    enter(monkeypatch, folder, mlflow_uri)
    world = EvaluationWorld(folder, empty_valkey, mlflow_uri)
    visitor = world.app().test_client()
    assert "mlflow-lmms demo" in opened(visitor, "/lmms/leaderboard")
    page = opened(visitor, "/lmms/evaluations")
    assert "mlflow-lmms demo" in page
    assert "No worker is listening." in page and "mlflow-lmms worker" in page
    assert "mlflow-lmms model register" in opened(visitor, "/lmms/evaluations/new")
    world.close()


def test_the_list_shows_every_state_with_progress_and_place(seeded: Seeded, visitor: FlaskClient) -> None:
    page = opened(visitor, "/lmms/evaluations")
    for state in ("queued", "running", "finished", "failed"):
        assert f'<span class="chip {state}">' in page
    assert "next in the queue" in page
    assert "1 failed" in page
    assert escape(f"run {EVIL}") in page
    assert "No worker is listening" not in page


@pytest.mark.parametrize(
    ("query", "found"), [("state=failed", "failed"), ("state=running", "running"), ("state=queued", "queued")]
)
def test_the_list_is_narrowed_by_state(seeded: Seeded, visitor: FlaskClient, query: str, found: str) -> None:
    page = opened(visitor, f"/lmms/evaluations?{query}")
    assert set(re.findall(r'<span class="chip (\w+)">', page)) == {found}
    assert f'data-run="{getattr(seeded, found)}"' in page


def test_the_list_is_narrowed_by_model_and_experiment(seeded: Seeded, visitor: FlaskClient) -> None:
    page = opened(visitor, "/lmms/evaluations?model=evil%20v1")
    assert re.findall(r'data-run="(\w+)"', page) == [seeded.finished["evil"]]
    assert "No evaluation matches" in opened(visitor, "/lmms/evaluations?experiment=4711")


def test_an_unknown_state_is_named(visitor: FlaskClient) -> None:
    assert "expected one of queued" in opened(visitor, "/lmms/evaluations?state=lost", 400)


def test_a_finished_evaluation_shows_results_slices_files_and_command(seeded: Seeded, visitor: FlaskClient) -> None:
    run_id = seeded.finished["centroid"]
    page = opened(visitor, f"/lmms/evaluations/{run_id}")
    assert "digits_vqa by perturbation" in page
    assert re.search(r">(worst|weakest)</span>", page)
    assert f"get-artifact?run_uuid={run_id}&amp;path=lmms%2Fsamples%2Fdigits_vqa.parquet" in page
    assert "python -m lmms_eval --model digits" in page
    assert f'href="/lmms/evaluations/{run_id}/samples/digits_vqa"' in page
    assert f'data-events="/lmms/events/runs/{run_id}"' in page
    assert f'/runs/{run_id}"' in page
    assert "/cancel" not in page and "/retry" not in page


def test_a_failed_task_shows_its_class_and_the_end_of_its_log(seeded: Seeded, visitor: FlaskClient) -> None:
    page = opened(visitor, f"/lmms/evaluations/{seeded.failed}")
    assert "digits_sum failed: scoring" in page
    assert escape(f"ValueError: {EVIL}") in page
    assert f'action="/lmms/evaluations/{seeded.failed}/retry"' in page


def test_a_running_evaluation_can_be_cancelled_and_names_its_worker(seeded: Seeded, visitor: FlaskClient) -> None:
    page = opened(visitor, f"/lmms/evaluations/{seeded.running}")
    assert f'action="/lmms/evaluations/{seeded.running}/cancel"' in page
    assert "gpu-box-1 / cpu-0" in page
    assert 'data-live="yes"' in page


def test_a_queued_evaluation_says_its_place_and_why_it_cannot_start(seeded: Seeded, visitor: FlaskClient) -> None:
    page = opened(visitor, f"/lmms/evaluations/{seeded.queued}")
    assert "next, normal priority" in page
    assert "No listening worker has 4 GPUs." in page


def test_an_unknown_evaluation_is_not_found(visitor: FlaskClient) -> None:
    opened(visitor, "/lmms/evaluations/0123456789abcdef0123456789abcdef", 404)


def test_samples_show_pictures_question_answer_and_expected(seeded: Seeded, visitor: FlaskClient) -> None:
    run_id = seeded.finished["evil"]
    page = opened(visitor, f"/lmms/evaluations/{run_id}/samples/digits_vqa?wrong=1")
    assert escape(f"{EVIL} Which digit") in page
    assert page.count(escape(EVIL)) >= 3  # question, answer, evaluation's name
    assert f'src="/lmms/api/v1/evaluations/{run_id}/samples/digits_vqa/0/media/0"' in page
    assert 'alt="Picture 1 of 1 that the model was shown for sample 0"' in page
    assert "verdict-wrong" in page and "verdict-right" not in page
    assert "perturbation: blur" in page


def test_samples_are_searched_and_paged(seeded: Seeded, visitor: FlaskClient) -> None:
    path = f"/lmms/evaluations/{seeded.finished['k-nn']}/samples/digits_vqa"
    first = opened(visitor, path)
    assert "1–20 of 80 samples" in first and 'rel="next"' in first and 'rel="prev"' not in first
    last = opened(visitor, f"{path}?offset=60")
    assert "61–80 of 80 samples" in last and 'rel="prev"' in last and 'rel="next"' not in last
    assert "No sample matches." in opened(visitor, f"{path}?search=zebra")


def test_samples_of_a_task_that_has_not_finished_are_not_found(seeded: Seeded, visitor: FlaskClient) -> None:
    assert "has not finished" in opened(visitor, f"/lmms/evaluations/{seeded.running}/samples/digits_vqa", 404)


def test_the_form_offers_models_and_own_tasks(seeded: Seeded, visitor: FlaskClient) -> None:
    page = opened(visitor, "/lmms/evaluations/new?tasks=digits_vqa")
    assert '<option value="models:/k-nn/1">k-nn v1</option>' in page
    assert '<option value="digits_sum"></option>' in page
    assert 'name="tasks"' in page and 'value="digits_vqa"' in page
    assert 'action="/lmms/evaluations/new"' in page


def test_a_sound_form_queues_the_evaluation_and_leads_to_it(seeded: Seeded, visitor: FlaskClient) -> None:
    sent = {
        "model": seeded.model,
        "tasks": "digits_vqa, digits_sum",
        "limit": "8",
        "priority": "low",
        "run_name": EVIL,
    }
    answer = visitor.post("/lmms/evaluations/new", data=sent)
    assert answer.status_code == 303
    run_id = answer.headers["Location"].rpartition("/")[2]
    evaluation = seeded.world.services.store.get(run_id)
    assert [task.task for task in evaluation.tasks] == ["digits_vqa", "digits_sum"]
    assert evaluation.request.limit == 8
    page = opened(visitor, answer.headers["Location"])
    assert "no scores of the benchmark" in page
    seeded.world.services.lifecycle.cancel(run_id)


def test_a_faulty_form_keeps_what_was_typed_and_says_what_is_wrong(visitor: FlaskClient) -> None:
    sent = {"adapter": EVIL, "tasks": "digits_vqaa", "limit": "-3", "gen_kwargs": EVIL}
    answer = visitor.post("/lmms/evaluations/new", data=sent)
    assert answer.status_code == 400
    assert EVIL not in answer.text
    assert answer.text.count('aria-invalid="true"') == 4
    assert "did you mean" in answer.text and 'value="digits_vqaa"' in answer.text
    assert 'id="limit-problem"' in answer.text and 'aria-describedby="limit-hint limit-problem"' in answer.text


def test_an_unknown_model_is_the_models_problem(visitor: FlaskClient) -> None:
    sent = {"model": "models:/nobody/7", "tasks": "digits_vqa"}
    answer = visitor.post("/lmms/evaluations/new", data=sent)
    assert answer.status_code == 404
    assert "models:/nobody/7 is not in the Model Registry" in answer.text.replace("&#39;", "'")
    assert 'id="model-problem"' in answer.text


def test_cancel_and_retry_lead_back_to_the_evaluation(seeded: Seeded, visitor: FlaskClient) -> None:
    run_id = seeded.world.submit(seeded.model, ["digits_sum"])
    cancelled = visitor.post(f"/lmms/evaluations/{run_id}/cancel")
    assert (cancelled.status_code, cancelled.headers["Location"]) == (303, f"/lmms/evaluations/{run_id}")
    assert seeded.world.services.store.get(run_id).state is State.CANCELLED
    assert visitor.post(f"/lmms/evaluations/{run_id}/cancel").status_code == 409
    assert visitor.post(f"/lmms/evaluations/{run_id}/retry").status_code == 303
    assert seeded.world.services.store.get(run_id).state is State.QUEUED
    seeded.world.services.lifecycle.cancel(run_id)


def test_cancel_is_not_done_by_a_link(seeded: Seeded, visitor: FlaskClient) -> None:
    assert visitor.get(f"/lmms/evaluations/{seeded.running}/cancel").status_code == 405


def test_behind_a_static_prefix_every_link_stays_behind_it(seeded: Seeded, visitor: FlaskClient) -> None:
    for path in ("leaderboard", "evaluations", "evaluations/new", f"evaluations/{seeded.finished['k-nn']}"):
        page = visitor.get(
            f"/lmms/{path}", base_url="http://localhost/team", environ_overrides={"SCRIPT_NAME": "/team"}
        )
        assert page.status_code == 200
        links = re.findall(r'(?:href|src|action|data-feed|data-events|data-log|data-tasks)="([^"#][^"]*)"', page.text)
        assert links
        assert [link for link in links if not link.startswith(("/team/", "https://www.mlflow.org"))] == []


def test_one_tab_is_marked_as_the_current_one(seeded: Seeded, visitor: FlaskClient) -> None:
    for path, name in {
        "/lmms/leaderboard": "Leaderboard",
        "/lmms/evaluations": "Evaluations",
        f"/lmms/evaluations/{seeded.finished['k-nn']}": "Evaluations",
        "/lmms/evaluations/new": "New evaluation",
    }.items():
        side = opened(visitor, path).partition("<main")[0]
        assert re.findall(r'aria-current="page">.*?</svg>([^<]+)</a>', side) == [name]


def test_the_queue_server_may_be_away(seeded: Seeded, visitor: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    away = EvaluationQueue("unix:///nowhere/valkey.sock", timeout_s=0.2)
    services = seeded.world.services
    monkeypatch.setattr(services.submission, "_queue", away)
    monkeypatch.setitem(vars(services), "queue", away)
    page = opened(visitor, "/lmms/evaluations")
    assert "The queue server does not answer." in page and "mlflow-lmms doctor" in page
    answer = visitor.post("/lmms/evaluations/new", data={"model": seeded.model, "tasks": "digits_vqa"})
    assert answer.status_code == 503
    assert "MLFLOW_LMMS_REDIS_URL" in answer.text and 'value="digits_vqa"' in answer.text
