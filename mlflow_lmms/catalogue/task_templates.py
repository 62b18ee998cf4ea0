"""The texts of a new benchmark's files. Data alone, but for filling them in."""

from __future__ import annotations

import json
from collections.abc import Sequence

_YAML = """\
# Made by `mlflow-lmms catalog new`. Change what you like, then run `mlflow-lmms catalog check` on this folder.
task: {name}
dataset_path: json
dataset_kwargs:
  # Relative to this file.
  data_files:
    test: data.jsonl
test_split: test
output_type: generate_until
{shown}doc_to_text: !function {module}.prompt
doc_to_target: !function {module}.target
process_results: !function {module}.score
generation_kwargs:
  until: ["\\n\\n"]
  max_new_tokens: 64
  temperature: 0
  do_sample: false
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
metadata:
  # Raise it when documents, prompt or scoring change.
  version: 1.0
  # Columns whose groups get scores of their own.
  dimensions: {dimensions}
"""

_HEAD = '''\
"""What the model is shown and asked in {name}, and when an answer is right.

lmms-eval loads this file by its path, as a module without a package: no relative imports here.
"""

import re
{imports}
Document = dict[str, Any]
{folder}

def prompt(doc: Document, lmms_eval_specific_kwargs: Any = None) -> str:
    """The question, with lettered choices where there are some."""
    choices = doc.get("choices") or []
    if not choices:
        return f"{{doc['question']}}\\nAnswer with a word or a short phrase."
    lines = [f"{{letter}}. {{choice}}" for letter, choice in zip(_LETTERS, choices)]
    return "\\n".join([doc["question"], *lines, "Answer with the letter of the right choice."])


def target(doc: Document) -> str:
    """The right answer, or all of them."""
    return " / ".join(doc["answer"])


def score(doc: Document, results: list[str]) -> dict[str, float]:
    """1 when the answer is one of the right ones, whatever its case and spacing; a letter stands for its choice."""
    said = _plain(results[0])
    right = {{_plain(answer) for answer in doc["answer"]}}
    for letter, choice in zip(_LETTERS, doc.get("choices") or []):
        if _plain(choice) in right or _plain(letter) in right:
            right |= {{_plain(letter), _plain(choice), _plain(f"{{letter}}. {{choice}}")}}
    return {{"exact_match": float(said in right)}}


def _plain(text: str) -> str:
    return re.sub(r"\\s+", " ", text).strip().strip(".").strip().casefold()


_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
'''

_IMAGES = '''

def {function}(doc: Document) -> list[Any]:
    """The pictures of a document."""
    return [_picture(_MEDIA / name) for name in doc["media"]]
'''

_VIDEOS = '''

def {function}(doc: Document) -> list[str]:
    """The paths of a document's videos."""
    return [str(_MEDIA / name) for name in doc["media"]]
'''

_AUDIO = '''

def {function}(doc: Document) -> list[Any]:
    """The sounds of a document as samples with their rate."""
    return [_sound(_MEDIA / name) for name in doc["media"]]
'''

_MIXED = '''

def {function}(doc: Document) -> list[Any]:
    """Pictures, sounds and paths of videos, in the order of the document."""
    show = {{"image": _picture, "audio": _sound, "video": str}}
    return [show[kind](_MEDIA / name) for kind, name in zip(doc["kinds"], doc["media"])]
'''

_PICTURE = """

def _picture(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")
"""

_SOUND = '''

def _sound(path: Path) -> dict[str, Any]:
    """Samples between -1 and 1, one channel at 16 kHz, decoded by PyAV, which comes with lmms-eval."""
    resampler = av.AudioResampler(format="flt", layout="mono", rate=16_000)
    with av.open(str(path)) as container:
        frames = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
    frames += resampler.resample(None)
    return {"array": np.concatenate([part.to_ndarray()[0] for part in frames]), "sampling_rate": 16_000}
'''

_SHOW = {"image": ("images", _IMAGES), "video": ("videos", _VIDEOS), "audio": ("sounds", _AUDIO)}


def task_yaml(name: str, module: str, kinds: Sequence[str], dimensions: Sequence[str]) -> str:
    """The text of the task file; `module` is the name of its Python file."""
    shown = f"doc_to_visual: !function {module}.{_function(kinds)[0]}\n" if kinds else ""
    return _YAML.format(
        name=name, module=module, shown=shown, dimensions=json.dumps(list(dimensions), ensure_ascii=False)
    )


def scoring_code(name: str, kinds: Sequence[str]) -> str:
    """The text of the Python file beside the task file."""
    imports = ["from typing import Any\n"]
    if kinds:
        imports.insert(0, "from pathlib import Path")
    others = [*(["import av", "import numpy as np"] if "audio" in kinds else [])]
    others += ["from PIL import Image"] if "image" in kinds else []
    imports += [*others, ""] if others else []
    folder = '_MEDIA = Path(__file__).parent / "media"\n' if kinds else ""
    code = _HEAD.format(name=name, imports="\n".join(imports), folder=folder)
    if kinds:
        function, body = _function(kinds)
        code += body.format(function=function)
    return code + (_PICTURE if "image" in kinds else "") + (_SOUND if "audio" in kinds else "")


def _function(kinds: Sequence[str]) -> tuple[str, str]:
    return _SHOW[kinds[0]] if len(kinds) == 1 else ("media", _MIXED)
