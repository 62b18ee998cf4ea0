"""Results as the runner writes them (protocol 1), over scikit-learn's handwritten digits. No lmms-eval runs here."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from mlflow_lmms.names import escape
from mlflow_lmms.task_result import RESULT_PROTOCOL

#: A text that must never reach a page unescaped.
EVIL = "<script>alert(1)</script>"
_PERTURBATIONS = ("none", "blur", "noise", "occluded", "rotated")


@dataclass(frozen=True)
class Document:
    """One question about one picture."""

    index: int
    question: str
    answer: str
    perturbation: str
    picture: bytes

    @property
    def content_hash(self) -> str:
        """Stands for the hash of the document's columns."""
        return hashlib.sha256(f"{self.index} {self.question} {self.answer}".encode()).hexdigest()


def documents(count: int) -> list[Document]:
    """Small real pictures: scikit-learn's handwritten digits."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return [
        Document(
            index=index,
            question=f"{EVIL} Which digit does the picture show?"
            if index == 0
            else "Which digit does the picture show?",
            answer=str(int(digits.target[index])),
            perturbation=_PERTURBATIONS[index % len(_PERTURBATIONS)],
            picture=_png(digits.images[index]),
        )
        for index in range(count)
    ]


def _png(pixels: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray((np.asarray(pixels) * 15.9).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write_result(
    output: Path, task: str, docs: Sequence[Document], accuracy: float, *, seed: int, evil: bool = False
) -> Path:
    """Write one task's files as the runner does; returns the result's path."""
    random = np.random.default_rng(seed)
    hard = np.array([0.0 if doc.perturbation == "none" else 0.25 for doc in docs])
    right = random.random(len(docs)) < accuracy - hard
    answers = [doc.answer if ok else str((int(doc.answer) + 3) % 10) for doc, ok in zip(docs, right, strict=True)]
    if evil:
        answers[:2] = [EVIL, EVIL]
        right[:2] = False
    scores = right.astype(float).tolist()
    name = escape(task)
    media = pa.list_(pa.struct([("mime", pa.string()), ("data", pa.binary())]))
    table = pa.table(
        {
            "doc_id": [doc.index for doc in docs],
            "doc_hash": [doc.content_hash for doc in docs],
            "input": [doc.question for doc in docs],
            "target": [doc.answer for doc in docs],
            "responses": [[answer] for answer in answers],
            "filtered:none": answers,
            "score:exact_match:none": scores,
            "doc:perturbation": [doc.perturbation for doc in docs],
            "media": pa.array([[{"mime": "image/png", "data": doc.picture}] for doc in docs], media),
        }
    )
    for folder in ("tasks", "samples"):
        (output / folder).mkdir(parents=True, exist_ok=True)
    pq.write_table(table, output / "samples" / f"{name}.parquet")
    by_hash = table.select(["doc_hash", "doc_id", "score:exact_match:none"]).sort_by("doc_hash")
    pq.write_table(by_hash, output / "samples" / f"{name}.scores.parquet")
    result = output / "tasks" / f"{name}.json"
    result.write_text(json.dumps(_result(task, name, docs, scores)), encoding="utf-8")
    return result


def _result(task: str, name: str, docs: Sequence[Document], scores: Sequence[float]) -> dict[str, Any]:
    metric = {"metric": "exact_match", "filter": "none"}
    groups = sorted({doc.perturbation for doc in docs})
    members = {group: [s for d, s in zip(docs, scores, strict=True) if d.perturbation == group] for group in groups}
    slices = [
        {"dimension": "perturbation", "value": group, **metric, "n": len(own), "score": sum(own) / len(own)}
        for group, own in members.items()
    ]
    value = sum(scores) / len(scores)
    about = {
        "native": value,
        "stderr": 0.02,
        "factor": 1.0,
        "level": "sample",
        "scale": {"high": 1.0, "reason": "the mean of the samples' scores, which lie between 0 and 1"},
        "higher_is_better": True,
        "direction_reason": "the task says so",
        "aggregation": "mean",
        "per_sample": True,
        "binary": True,
        "mean": value,
        "sd": float(np.std(scores, ddof=1)),
    }
    return {
        "protocol": RESULT_PROTOCOL,
        "task": task,
        "attempt": 1,
        "output_type": "generate_until",
        "samples": len(docs),
        "documents": len(docs),
        "metrics": [{**metric, "value": value, **about, "n": len(docs)}],
        "primary": {**metric, "reason": "the only metric"},
        "dimensions": ["perturbation"],
        "fingerprint": {
            "dataset": "d",
            "task_config": task,
            "generation": "g",
            "num_fewshot": 0,
            "lmms_eval": "0.7.3",
        },
        "slices": slices,
        "empty_responses": 0,
        "seconds": 12.5,
        "raw": {"exact_match,none": value},
        "samples_file": f"samples/{name}.parquet",
        "scores_file": f"samples/{name}.scores.parquet",
    }
