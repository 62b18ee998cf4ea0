"""The page Fleet, a waiting evaluation's reason, and the form's pasted command; in part in a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import fleet_world
import pytest
import redis
from browser import NoBrowser, WatchedPage, chromium
from evaluation_world import Seeded
from flask.testing import FlaskClient
from mlflow_process import MlflowProcess
from playwright.sync_api import Browser, expect
from runner_output import EVIL

from mlflow_lmms.evaluation_queue import EvaluationQueue
from mlflow_lmms.fleet_view import FleetView
from mlflow_lmms.part_attempts import attempts_of
from mlflow_lmms.planner.fleet import Cause
from mlflow_lmms.queue_keys import BOX_STATE_KEY, box_key, job_id


def opened(visitor: FlaskClient, path: str, status: int = 200) -> str:
    answer = visitor.get(path)
    assert answer.status_code == status, answer.text
    assert EVIL not in answer.text
    return re.sub(r"\s+", " ", answer.text)


@pytest.fixture
def holder(seeded: Seeded) -> Iterator[str]:
    """A run that holds a GPU of a made-up fleet."""
    run_id = seeded.world.submit(seeded.model, ["digits_vqa"], gpus=1, run_name=f"mine {EVIL}")
    seeded.world.services.queue.remove(run_id, "0")
    fleet_world.announce_fleet(seeded.world.redis, version("mlflow-lmms"))
    fleet_world.lease(seeded.world.redis, run_id, [fleet_world.uuid(0)])
    yield run_id
    fleet_world.clear(seeded.world.redis, run_id)
    seeded.world.services.lifecycle.cancel(run_id)


def test_the_page_shows_boxes_gpus_work_queue_and_use(seeded: Seeded, holder: str, visitor: FlaskClient) -> None:
    fleet_world.wait(seeded.world.redis, seeded.queued, Cause.BUSY, "waits for 4 GPUs on one box: all are taken")
    page = opened(visitor, "/lmms/fleet")
    assert "1 of 5 in use" in page and "3 connected" in page
    assert "93 % busy" in page and "62 GiB of 80 GiB" in page and "612 W" in page
    assert f'href="/lmms/evaluations/{holder}"' in page
    assert "others use 50 GiB" in page and "GPU is lost" in page
    assert "next release refuses" in page
    assert re.search(r"gone-03</h2><span class=\"chip failed\">offline", page)
    assert "waits for 4 GPUs on one box: all are taken" in page
    assert "By user" in page and "nobody signed in" in page


def test_a_change_is_asked_for_confirmed_and_undone(seeded: Seeded, holder: str, visitor: FlaskClient) -> None:
    assert 'href="/lmms/fleet?box=dgx-01&amp;change=drain"' in opened(visitor, "/lmms/fleet")
    asked = opened(visitor, "/lmms/fleet?box=dgx-01&change=drain")
    assert "Drain dgx-01?" in asked and 'action="/lmms/fleet/boxes/dgx-01"' in asked
    sent = {"change": "drain", "reason": EVIL}
    done = visitor.post("/lmms/fleet/boxes/dgx-01", data=sent)
    assert (done.status_code, done.headers["Location"]) == (303, "/lmms/fleet")
    page = opened(visitor, "/lmms/fleet")
    assert "drained" in page and "Resume" in page
    visitor.post("/lmms/fleet/boxes/dgx-01", data={"change": "resume"})
    assert seeded.world.redis.hget(BOX_STATE_KEY, "dgx-01") is None


@pytest.mark.parametrize(("sent", "status"), [({"change": "explode"}, 400), ({"change": "forget"}, 409)])
def test_a_change_that_cannot_be_made_says_why(
    holder: str, visitor: FlaskClient, sent: dict[str, str], status: int
) -> None:
    answer = visitor.post("/lmms/fleet/boxes/dgx-01", data=sent)
    assert answer.status_code == status and 'role="alert"' in answer.text
    assert "<h1>Fleet</h1>" in answer.text


def test_without_a_queue_server_the_page_says_so(
    seeded: Seeded, visitor: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = "unix:///nowhere/valkey.sock"
    monkeypatch.setitem(vars(seeded.world.services), "queue", EvaluationQueue(away, timeout_s=0.2))
    monkeypatch.setitem(vars(seeded.world.services), "fleet", FleetView(away, timeout_s=0.2))
    page = opened(visitor, "/lmms/fleet")
    assert "The queue server does not answer." in page and "Use in the last 30 days" in page


def test_a_waiting_evaluation_says_why(seeded: Seeded, visitor: FlaskClient) -> None:
    connection, path = seeded.world.redis, f"/lmms/evaluations/{seeded.queued}"
    other = job_id(seeded.running, "0")
    fleet_world.wait(connection, seeded.queued, Cause.RESERVED_FOR_OTHER, f"kept for {other}")
    page = opened(visitor, path)
    told = visitor.get(f"/lmms/api/v1/evaluations/{seeded.queued}").get_json()["wait"]
    assert told == {"cause": "reserved_for_other", "reason": "kept for another evaluation"}
    assert "Waits because</dt><dd>kept for another evaluation" in page
    assert "kept for another evaluation" in opened(visitor, "/lmms/evaluations?state=queued")
    fleet_world.wait(connection, seeded.queued, Cause.NEVER_FITS, "it needs 4 GPUs, and the most is 1")
    page = opened(visitor, path)
    assert "No box of the fleet can run it." in page and "it needs 4 GPUs, and the most is 1" in page
    fleet_world.clear(connection)


def test_an_ended_evaluation_lists_its_attempts_and_may_be_scored_again(seeded: Seeded, visitor: FlaskClient) -> None:
    run_id = seeded.world.finished_run(seeded.model, 0.9)
    (attempt,) = attempts_of(seeded.world.services.store.engine, run_id)
    assert (attempt.box, attempt.outcome, attempt.gpus) == ("gpu-box-1", "finished", 0)
    page = opened(visitor, f"/lmms/evaluations/{run_id}")
    assert "Attempts</h2>" in page and "Waited in the queue" in page
    assert f'action="/lmms/evaluations/{run_id}/rescore"' in page
    assert visitor.post(f"/lmms/evaluations/{run_id}/rescore").status_code == 303
    assert seeded.world.services.store.get(run_id).state == "queued"
    assert "/rescore" not in opened(visitor, f"/lmms/evaluations/{run_id}")
    seeded.world.services.lifecycle.cancel(run_id)


def test_a_pasted_command_fills_the_form_in(visitor: FlaskClient) -> None:
    command = (
        "OPENAI_API_KEY=sk-very-secret-0123456789 accelerate launch --num_processes=8 -m lmms_eval "
        "--model qwen2_5_vl --model_args pretrained=a/b,dtype=float16 --tasks digits_vqa --seed 7 "
        "--output_path ./logs"
    )
    answer = visitor.post("/lmms/evaluations/new/command", data={"command": command})
    assert answer.status_code == 200 and "very-secret" not in answer.text
    for value in ("qwen2_5_vl", "pretrained=a/b,dtype=float16", "digits_vqa", "8", "7,7,7,7", "OPENAI_API_KEY"):
        assert f'value="{value}"' in answer.text
    assert "<option selected>data-parallel</option>" in answer.text
    assert "--output_path: the MLflow run keeps" in answer.text
    assert re.search(r'evaluations/new" aria-current="page"', answer.text)


def test_a_command_that_is_none_says_why(visitor: FlaskClient) -> None:
    answer = visitor.post("/lmms/evaluations/new/command", data={"command": f"rm -rf / {EVIL}"})
    assert answer.status_code == 400 and EVIL not in answer.text
    assert 'id="command-problem"' in answer.text and "<details open>" in answer.text


def test_the_form_asks_for_a_place_and_for_seeds(seeded: Seeded, visitor: FlaskClient) -> None:
    place = {"gpus": "1", "gpu_type": "H100", "gpu_memory_gb": "40", "labels": "nvlink, fast", "max_parts": "2"}
    sent = {"model": seeded.model, "tasks": "digits_vqa", "seeds": "1,2,3,4", "launch": "single", **place}
    answer = visitor.post("/lmms/evaluations/new", data=sent)
    assert answer.status_code == 303, answer.text
    run_id = answer.headers["Location"].rpartition("/")[2]
    request = seeded.world.services.store.get(run_id).request
    assert (request.gpu_type, request.gpu_memory_gb, request.labels) == ("H100", 40.0, ("nvlink", "fast"))
    assert (request.launch, request.max_parts, request.seeds.fewshot) == ("single", 2, 4)
    seeded.world.services.lifecycle.cancel(run_id)
    faulty = visitor.post("/lmms/evaluations/new", data={**sent, "seeds": "one", "gpu_memory_gb": "-1"})
    assert faulty.status_code == 400
    assert 'id="seeds-problem"' in faulty.text and 'id="gpu_memory_gb-problem"' in faulty.text


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    try:
        with chromium() as found:
            yield found
    except NoBrowser as missing:
        pytest.skip(str(missing))


@pytest.mark.browser
@pytest.mark.parametrize("width", [1440, 390])
def test_the_page_follows_the_fleet_without_a_reload(
    open_server: MlflowProcess, browser: Browser, width: int
) -> None:
    watched = WatchedPage(browser, width=width, theme="dark")
    with redis.Redis.from_url(open_server.redis_url) as connection:
        fleet_world.announce_fleet(connection, version("mlflow-lmms"))
        try:
            watched.page.goto(f"{open_server.url}/lmms/fleet")
            expect(watched.page.get_by_text("93 % busy")).to_be_visible()
            watched.page.evaluate("window.stays = true")
            gpus: Any = connection.hget(box_key("dgx-01"), "gpus")
            connection.hset(box_key("dgx-01"), "gpus", gpus.replace(b"93.0", b"41.0"))
            expect(watched.page.get_by_text("41 % busy")).to_be_visible(timeout=15_000)
            watched.page.get_by_role("link", name="Pause dgx-01").click()
            watched.page.get_by_label("Reason").fill("a fan is broken")
            watched.page.get_by_role("button", name="Pause", exact=True).click()
            expect(watched.page.get_by_text("a fan is broken")).to_be_visible()
            watched.page.get_by_role("link", name="Resume dgx-01").click()
            watched.page.get_by_role("button", name="Resume", exact=True).click()
            expect(watched.page.get_by_text("a fan is broken")).to_have_count(0)
            assert watched.problems == [] and not watched.is_cut_off()
        finally:
            fleet_world.clear(connection)
            watched.close()
