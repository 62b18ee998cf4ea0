"""Makes a picture of every page, light and dark, 1440 and 390 wide: ``python tests/screenshots.py URL FOLDER``.

The server at URL should have evaluations (``mlflow-lmms demo``). Ends with status 1 when a page reports an error in
its console or is cut off at the side.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import requests
from browser import Theme, WatchedPage, chromium
from playwright.sync_api import Browser

_WIDTHS = (1440, 390)
_LOAD_PICTURES = """Promise.all([...document.images].map(image => {
  image.loading = "eager";
  return image.decode();
}))"""
_THEMES: tuple[Theme, ...] = ("light", "dark")


def pages(server: str) -> dict[str, str]:
    """Name and path of every page that the server can show now."""
    found = {
        "leaderboard": "/lmms/leaderboard",
        "evaluations": "/lmms/evaluations",
        "fleet": "/lmms/fleet",
        "suites": "/lmms/suites",
        "new-evaluation": "/lmms/evaluations/new",
    }
    for suite in _get(server, "suites")["suites"][:1]:
        found["suite"] = f"/lmms/suites/{quote(suite['name'])}"
    evaluations: list[dict[str, Any]] = _get(server, "evaluations")["evaluations"]
    for evaluation in evaluations:
        found.setdefault(f"evaluation-{evaluation['state']}", f"/lmms/evaluations/{evaluation['run_id']}")
    for evaluation in evaluations:
        for task in evaluation["tasks"]:
            if task["state"] == "finished":
                path = f"/lmms/evaluations/{evaluation['run_id']}/samples/{quote(task['task'])}?wrong=1"
                found.setdefault("samples", path)
    return found


def _get(server: str, path: str) -> dict[str, Any]:
    answer = requests.get(f"{server}/lmms/api/v1/{path}", timeout=30)
    answer.raise_for_status()
    content: dict[str, Any] = answer.json()
    return content


def take(browser: Browser, server: str, folder: Path) -> list[str]:
    """Take all pictures; returns what is wrong with the pages."""
    problems = []
    for theme in _THEMES:
        for width in _WIDTHS:
            for name, path in pages(server).items():
                watched = WatchedPage(browser, width=width, theme=theme)
                watched.page.goto(f"{server}{path}")
                watched.page.evaluate(_LOAD_PICTURES)
                watched.page.wait_for_timeout(700)  # for live events, of which nobody knows the last
                shot = f"{name}-{theme}-{width}"
                watched.page.screenshot(path=folder / f"{shot}.png", full_page=True)
                problems += [f"{shot}: {problem}" for problem in watched.problems]
                if watched.is_cut_off():
                    problems.append(f"{shot}: the page scrolls sideways")
                watched.close()
    return problems


def main() -> int:
    """Run from a shell."""
    if len(sys.argv) != 3:
        sys.stderr.write(f"usage: {sys.argv[0]} URL FOLDER\n")
        return 2
    folder = Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    with chromium() as browser:
        problems = take(browser, sys.argv[1].rstrip("/"), folder)
    sys.stdout.write("\n".join([*problems, f"{len(list(folder.glob('*.png')))} pictures in {folder}", ""]))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
