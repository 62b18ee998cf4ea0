"""Our tabs in MLflow's own page, in a real browser: they look native, stay, and can be reached with the keyboard."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from browser import NoBrowser, WatchedPage, chromium
from mlflow_process import BOB, MlflowProcess
from playwright.sync_api import Browser, Page, expect

pytestmark = pytest.mark.browser

TABS = {
    "Leaderboard": "/lmms/leaderboard",
    "Evaluations": "/lmms/evaluations",
    "Fleet": "/lmms/fleet",
    "Suites": "/lmms/suites",
    "New evaluation": "/lmms/evaluations/new",
}
OURS = "aside nav li[data-lmms-tab]"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    try:
        with chromium() as found:
            yield found
    except NoBrowser as missing:
        pytest.skip(str(missing))


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    watched = WatchedPage(browser)
    # MLflow's assistant opens by itself on the first visit and covers a third of the page.
    watched.page.add_init_script("localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')")
    yield watched.page
    watched.close()


def hrefs(page: Page) -> dict[str, str]:
    links = page.locator(f"{OURS} > a").all()
    return {link.get_attribute("aria-label") or "": link.get_attribute("href") or "" for link in links}


def test_the_tabs_stand_after_mlflows_own_and_look_like_them(open_server: MlflowProcess, page: Page) -> None:
    page.goto(f"{open_server.url}/#/experiments")
    expect(page.locator(OURS)).to_have_count(len(TABS), timeout=60_000)
    assert hrefs(page) == TABS
    own = page.locator("aside nav ul > li:not([data-lmms-tab]) > a").first
    for link in page.locator(f"{OURS} > a").all():
        for style in ("color", "fontSize", "fontWeight", "padding", "height", "display", "gap"):
            value = f"element => getComputedStyle(element).{style}"
            assert link.evaluate(value) == own.evaluate(value), style
        assert link.locator("svg use").count() == 1
    page.get_by_role("link", name="Leaderboard").click()
    expect(page).to_have_url(f"{open_server.url}/lmms/leaderboard")
    expect(page.get_by_role("link", name="Leaderboard")).to_have_attribute("aria-current", "page")


def test_the_tabs_survive_everything_that_mlflow_draws(open_server: MlflowProcess, page: Page) -> None:
    experiment, _ = open_server.new_run("drawn")
    page.goto(f"{open_server.url}/")
    expect(page.locator(OURS)).to_have_count(len(TABS), timeout=60_000)
    for route in ("experiments", f"experiments/{experiment}", "models", "settings/general", ""):
        page.evaluate(f"location.hash = '#/{route}'")
        expect(page.locator(OURS)).to_have_count(len(TABS))
        expect(page.locator(f"{OURS}:last-child > a[href='/lmms/evaluations/new']")).to_be_visible()
    page.get_by_text("Model training").first.click()
    expect(page.locator(OURS)).to_have_count(len(TABS))
    page.get_by_label("Toggle sidebar").click()
    expect(page.locator(f"{OURS} > a").first).to_have_text("")
    assert hrefs(page) == TABS
    assert page.locator(f"{OURS} > a").first.get_attribute("title") == "Leaderboard"
    page.evaluate(
        "document.querySelector('aside nav ul').querySelectorAll('[data-lmms-tab]').forEach(n => n.remove())"
    )
    expect(page.locator(OURS)).to_have_count(len(TABS))


def test_the_keyboard_reaches_the_tabs(open_server: MlflowProcess, page: Page) -> None:
    page.goto(f"{open_server.url}/#/experiments")
    expect(page.locator(OURS)).to_have_count(len(TABS), timeout=60_000)
    page.locator("aside nav ul > li:not([data-lmms-tab]) > a").last.focus()
    reached = []
    for _ in TABS:
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.getAttribute('aria-label')"))
    assert reached == list(TABS)
    page.keyboard.press("Enter")
    # The form's first visitor waits for the catalogue to be read.
    expect(page).to_have_url(f"{open_server.url}/lmms/evaluations/new", timeout=30_000)


def test_a_changed_mlflow_page_is_left_alone(open_server: MlflowProcess, page: Page) -> None:
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    script = page.request.get(f"{open_server.url}/lmms/static/sidebar.js").text()
    page.goto(f"{open_server.url}/version")
    for body in ("", "<aside><nav><ul><li>no link</li></ul></nav></aside>", "<aside><nav><ul></ul></nav></aside>"):
        page.set_content(f"<!doctype html><html><body>{body}<script>{script}</script></body></html>")
        page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        assert page.locator(OURS).count() == 0
    assert problems == []


def test_one_sign_in_page_leads_back_to_the_page_inside_mlflow(auth_server: MlflowProcess, page: Page) -> None:
    page.goto(f"{auth_server.url}/#/experiments")
    page.get_by_label("User name").fill(BOB[0])
    page.get_by_label("Password").fill(BOB[1])
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator(OURS)).to_have_count(len(TABS) + 1, timeout=60_000)
    assert page.url == f"{auth_server.url}/#/experiments", "the part after # is kept through the sign-in"
    account = page.get_by_role("link", name="Account")
    expect(account).to_have_attribute("href", "/lmms/password")
    account.click()
    page.get_by_role("main").get_by_role("button", name="Sign out").click()
    expect(page).to_have_url(f"{auth_server.url}/lmms/login")
    page.goto(f"{auth_server.url}/")
    expect(page.get_by_label("User name")).to_be_visible()
