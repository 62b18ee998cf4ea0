"""Shows the samples of a smoke run: prompt, picture, response and parsed answer, to see whether a set-up works."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.panel import Panel
from rich.text import Text

from mlflow_lmms.client import Client
from mlflow_lmms.names import escape

_WIDTH = 32
_SUFFIXES = {b"\x89PNG": "png", b"\xff\xd8\xff\xe0": "jpg", b"\xff\xd8\xff\xe1": "jpg"}


def show_smoke(client: Client, evaluation: dict[str, Any], console: Console) -> None:
    """Print every sample of an ended smoke run; its pictures are saved and their paths named."""
    folder = Path(tempfile.mkdtemp(prefix=f"lmms-smoke-{evaluation['run_id'][:8]}-"))
    for task in evaluation["tasks"]:
        if task["state"] != "finished":
            console.print(
                Text(f"{task['task']} {task['state']}: {task['message'] or 'no reason given'}", style="red")
            )
            continue
        page = client.samples(evaluation["run_id"], task["task"], limit=evaluation["request"]["smoke"])
        for sample in page["samples"]:
            console.print(_panel(client, evaluation["run_id"], task["task"], sample, folder, console.is_terminal))


def _panel(client: Client, run_id: str, task: str, sample: dict[str, Any], folder: Path, draw: bool) -> Panel:
    parts: list[Text] = [_line("prompt", sample["input"])]
    for number in range(len(sample["media"])):
        content = client.media(run_id, task, int(sample["index"]), number)
        file = folder / f"{escape(task)}-{sample['doc_id']}-{number}.{_SUFFIXES.get(content[:4], 'bin')}"
        file.write_bytes(content)
        parts.append(_line("picture", str(file)))
        if draw and (drawn := drawing(content)) is not None:
            parts.append(drawn)
    for response in sample["responses"]:
        parts.append(_line("response", response))
    for name, answer in sample["filtered"].items():
        parts.append(_line("answer" if name == "none" else f"answer ({name})", answer))
    parts.append(_line("expected", sample["target"]))
    scores = ", ".join(f"{name} {value:g}" for name, value in sample["scores"].items() if value is not None)
    parts.append(_line("score", scores or "none"))
    return Panel(Group(*parts), title=f"{task} · document {sample['doc_id']}", title_align="left")


def _line(label: str, text: Any) -> Text:
    return Text.assemble((f"{label:<10}", "bold"), str(text))


def drawing(content: bytes) -> Text | None:
    """The picture in coloured half blocks; None where Pillow is missing or does not know the format."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        return None
    try:
        picture = Image.open(io.BytesIO(content)).convert("RGB")
    except (UnidentifiedImageError, OSError):
        return None
    height = max(2, round(picture.height * _WIDTH / picture.width) // 2 * 2)
    small = picture.resize((_WIDTH, min(height, 2 * _WIDTH)))
    drawn = Text()
    for y in range(0, small.height - 1, 2):
        for x in range(small.width):
            drawn.append("▀", style=f"{_colour(small.getpixel((x, y)))} on {_colour(small.getpixel((x, y + 1)))}")
        drawn.append("\n")
    return drawn


def _colour(pixel: Any) -> str:
    red, green, blue = pixel
    return f"#{red:02x}{green:02x}{blue:02x}"
