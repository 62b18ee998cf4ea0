"""The pages in headless Chromium, against a real MLflow server, queue, worker and lmms-eval."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import NoBrowser, Theme, WatchedPage, chromium
from playwright.sync_api import Browser, expect
from running_stack import RunningStack, until

pytestmark = [pytest.mark.browser, pytest.mark.lmms_eval]

CONTRAST = (Path(__file__).parents[1] / "contrast.js").read_text(encoding="utf-8")
RUN_PAGE = re.compile(r"/lmms/evaluations/([0-9a-f]{32})$")
PATIENCE_MS = 180_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    try:
        with chromium() as found:
            yield found
    except NoBrowser as reason:
        pytest.skip(str(reason))


@pytest.fixture
def watched(browser: Browser) -> Iterator[WatchedPage]:
    """A page that must end without a problem."""
    watched = WatchedPage(browser)
    yield watched
    watched.close()
    assert watched.problems == []


@pytest.fixture(scope="module")
def finished(browser: Browser, stack: RunningStack) -> str:
    """A finished evaluation that was asked for and watched in the browser; its run id."""
    watched = WatchedPage(browser)
    page = watched.page
    page.goto(f"{stack.url}/lmms/evaluations/new")
    page.get_by_label("Registered model").select_option("models:/nearest-centroid/1")
    page.get_by_label("Find tasks").fill("robust")
    page.get_by_role("button", name="Add digits_robust").click()
    expect(page.get_by_role("button", name="Remove digits_robust")).to_be_visible()
    page.get_by_label("Limit").fill("300")
    page.get_by_role("button", name="Queue the evaluation").click()
    page.wait_for_url(RUN_PAGE)
    chip = page.locator("#head .chip")
    expect(chip).to_have_text("running", timeout=PATIENCE_MS)
    expect(page.locator(".log .line").first).to_be_visible(timeout=PATIENCE_MS)
    expect(page.locator('[data-part="progress"]')).to_contain_text(
        re.compile(r"\d+ of 300 · .* per second"), timeout=PATIENCE_MS
    )
    expect(page.locator('[data-part="score"]')).to_contain_text("so far", timeout=PATIENCE_MS)
    running = page.locator('[data-part="score"] .score').inner_text()
    assert 0 <= float(running) <= 1
    expect(chip).to_have_text("finished", timeout=PATIENCE_MS)
    expect(page.get_by_role("heading", name="Results")).to_be_visible()
    expect(page.locator('[data-part="spark"]')).to_be_visible()
    assert watched.problems == []
    watched.close()
    match = RUN_PAGE.search(page.url)
    assert match is not None
    return match[1]


def test_a_score_on_the_leaderboard_opens_what_the_model_got_wrong(
    stack: RunningStack, finished: str, watched: WatchedPage
) -> None:
    page = watched.page
    page.goto(f"{stack.url}/lmms/leaderboard")
    page.get_by_label("With partial runs").check()
    page.get_by_role("button", name="Show").click()
    page.locator(f'a[href*="{finished}/samples/digits_robust"]').click()
    expect(page.get_by_role("heading", name="digits_robust")).to_be_visible()
    picture = page.locator(".sample img").first
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    assert "the model was shown" in (picture.get_attribute("alt") or "")
    verdicts = set(page.locator(".sample dd span[class^=verdict]").all_inner_texts())
    assert verdicts == {"wrong"}
    page.get_by_label("Show").select_option("all")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("status")).to_contain_text("of 300 samples")


def test_the_recorded_score_is_the_one_that_the_page_shows(
    stack: RunningStack, finished: str, watched: WatchedPage
) -> None:
    page = watched.page
    page.goto(f"{stack.url}/lmms/evaluations/{finished}")
    score = stack.client.evaluation(finished)["tasks"][0]["score"]
    expect(page.locator('[data-part="score"] .score')).to_have_text(f"{score:.3f}")
    expect(page.locator(".log .line").first).to_be_visible()
    page.get_by_placeholder("Search the log").fill("no line says this")
    expect(page.locator('[data-part="count"]')).to_contain_text("0 of")
    with page.expect_download() as download:
        page.get_by_role("link", name="lmms/request.json").click()
    assert "nearest-centroid" in Path(download.value.path()).read_text(encoding="utf-8")


def test_cancel_ends_the_run_and_its_process(stack: RunningStack, watched: WatchedPage) -> None:
    page = watched.page
    run_id = stack.submit("k-nearest-neighbours", tasks=["digits_robust"])
    page.goto(f"{stack.url}/lmms/evaluations/{run_id}")
    expect(page.locator('[data-part="progress"]')).to_contain_text("per second", timeout=PATIENCE_MS)
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#head .chip")).to_have_text("cancelled", timeout=PATIENCE_MS)
    expect(page.get_by_role("button", name="Retry what is missing")).to_be_visible()
    until(lambda: not stack.runners(), within_s=30, what="the runner to be gone")


def test_the_list_follows_the_queue_without_a_reload(stack: RunningStack, watched: WatchedPage) -> None:
    page = watched.page
    page.goto(f"{stack.url}/lmms/evaluations")
    page.evaluate("window.notReloaded = true")
    run_id = stack.submit("logistic-regression", tasks=["digits_vqa"], limit=16)
    row = page.locator(f'tr[data-run="{run_id}"]')
    expect(row.locator(".chip")).to_have_text("finished", timeout=PATIENCE_MS)
    assert page.evaluate("window.notReloaded") is True


def test_the_tabs_stand_in_mlflows_own_sidebar(stack: RunningStack, watched: WatchedPage) -> None:
    page = watched.page
    page.goto(f"{stack.url}/#/experiments")
    page.get_by_role("link", name="Leaderboard").click(timeout=PATIENCE_MS)
    page.wait_for_url("**/lmms/leaderboard")
    expect(page.get_by_role("link", name="Leaderboard")).to_have_attribute("aria-current", "page")
    page.get_by_role("link", name="Model registry").click()
    page.wait_for_url("**/#/models")
    watched.problems.clear()  # of MLflow's own page


def test_mlflows_choice_of_theme_wins_over_the_systems(stack: RunningStack, watched: WatchedPage) -> None:
    page = watched.page
    page.goto(f"{stack.url}/lmms/leaderboard")
    assert page.evaluate("getComputedStyle(document.body).colorScheme") != "dark"
    page.evaluate("localStorage.setItem('_mlflow_dark_mode_toggle_enabled', 'true')")
    page.reload()
    assert page.evaluate("getComputedStyle(document.querySelector('main')).backgroundColor") == "rgb(17, 23, 28)"


def test_the_keyboard_reaches_the_content_and_shows_where_it_is(stack: RunningStack, watched: WatchedPage) -> None:
    page = watched.page
    page.goto(f"{stack.url}/lmms/evaluations")
    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to the content")
    expect(skip).to_be_focused()
    assert skip.evaluate("link => getComputedStyle(link).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="New evaluation").last).to_be_focused()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_every_page_has_contrast_and_is_not_cut_off(
    stack: RunningStack, finished: str, browser: Browser, theme: Theme, width: int
) -> None:
    watched = WatchedPage(browser, theme=theme, width=width)
    for path in (
        "leaderboard?partial=1",
        "evaluations",
        "fleet",
        "evaluations/new",
        f"evaluations/{finished}",
        f"evaluations/{finished}/samples/digits_robust?wrong=1",
    ):
        watched.page.goto(f"{stack.url}/lmms/{path}")
        assert watched.page.evaluate(CONTRAST) == [], path
        assert not watched.is_cut_off(), path
    assert watched.problems == []
    watched.close()


def test_without_scripts_the_form_still_queues(stack: RunningStack, browser: Browser) -> None:
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(f"{stack.url}/lmms/evaluations/new")
    page.get_by_label("Registered model").select_option("models:/logistic-regression/1")
    page.locator("#tasks").fill("no_such_task")
    page.get_by_role("button", name="Queue the evaluation").click()
    expect(page.locator("#tasks-problem")).to_contain_text("no_such_task")
    page.locator("#tasks").fill("digits_vqa")
    page.get_by_label("Limit").fill("4")
    page.get_by_role("button", name="Queue the evaluation").click()
    page.wait_for_url(RUN_PAGE)
    match = RUN_PAGE.search(page.url)
    assert match is not None
    assert stack.wait(match[1])["state"] == "finished"
    page.context.close()
