"""The page of one task's samples: pictures, question, answer, expected answer, and the score of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from flask import request, url_for

from mlflow_lmms.evaluation import Evaluation
from mlflow_lmms.samples import MediaReference, Sample
from mlflow_lmms.services import Services
from mlflow_lmms.states import State
from mlflow_lmms.task_result import TaskResult
from plugin_ui.finished_task import require_finished
from plugin_ui.pages.evaluation_results import metric_label
from plugin_ui.pages.formats import file_size, short
from plugin_ui.pages.frame import Link, render
from plugin_ui.pages.option_scores import OptionScore, expected_option, option_scores
from plugin_ui.permissions import READ, requires
from plugin_ui.services import services

_PAGE = 20
_LOG_LIKELIHOODS = ("multiple_choice", "loglikelihood")
_MEDIA = {"image": "picture", "video": "video", "audio": "sound", "mixed": "picture, video or sound"}
#: What ``?show=`` may say.
ALL, WRONG, ERRORED = "all", "wrong", "errored"


@dataclass(frozen=True)
class Picture:
    """One stored picture and what is read out in its place."""

    url: str
    alt: str


@dataclass(frozen=True)
class SampleView:
    """One document, what the model said and how it was judged; `verdict` is ``right``, ``wrong`` or empty.

    `options` stand in place of responses that are log-likelihoods. `not_stored` names media of which the run keeps
    nothing to show; `cost` is tokens and time, where they are known.
    """

    doc_id: int
    pictures: list[Picture]
    not_stored: list[str]
    cost: str
    input: str
    target: str
    responses: tuple[str, ...]
    options: list[OptionScore]
    expected_option: int | None
    filtered: str
    verdict: str
    errored: str
    scores: dict[str, float | None]
    columns: dict[str, Any]


@dataclass(frozen=True)
class SamplesContext:
    """What ``lmms/samples.html`` takes; `missing`: the task was recorded without its samples.

    `no_media` is said of a sample of which nothing is stored to look at; empty where nothing is to be expected.
    """

    template: ClassVar[str] = "lmms/samples.html"

    run_id: str
    name: str
    task: str
    others: list[Link]
    samples: list[SampleView]
    no_media: str
    missing: bool
    total: int
    first: int
    last: int
    show: str
    search: str
    metric: str | None
    all_url: str
    newer_url: str | None
    older_url: str | None


@requires(READ, run="run_id")
def show(run_id: str, task: str) -> str:
    """One page of samples: ``?wrong=1 &errored=1 &search= &offset=``; the filter's form sends ``?show=``."""
    core = services()
    evaluation = core.evaluation(run_id)
    require_finished(evaluation, task)
    result = core.reader.task_result(run_id, task)
    chosen = _chosen()
    search = request.args.get("search", "")
    offset = max(0, request.args.get("offset", 0, type=int))
    page = core.reader.samples(
        run_id,
        task,
        wrong_only=chosen == WRONG,
        errored_only=chosen == ERRORED,
        search=search,
        offset=offset,
        limit=_PAGE,
    )

    def link(start: int) -> str:
        searched: dict[str, Any] = {"search": search} if search else {}
        return url_for("lmms.samples", run_id=run_id, task=task, show=chosen, offset=start, **searched)

    primary = result.primary_metric
    context = SamplesContext(
        run_id=run_id,
        name=evaluation.name,
        task=task,
        others=_finished_tasks(evaluation, task, chosen),
        no_media=_no_media(core, task, page.samples),
        samples=[_view(run_id, task, sample, result) for sample in page.samples],
        missing=result.samples == 0,
        total=page.total,
        first=offset + 1,
        last=offset + len(page.samples),
        show=chosen,
        search=search,
        metric=metric_label(primary.metric, primary.filter) if primary else None,
        all_url=url_for("lmms.samples", run_id=run_id, task=task, show=ALL),
        newer_url=link(max(0, offset - _PAGE)) if offset else None,
        older_url=link(offset + _PAGE) if offset + _PAGE < page.total else None,
    )
    return render(context)


def _chosen() -> str:
    """Which samples are to be shown; links from elsewhere say ``wrong=1`` or ``errored=1``."""
    if request.args.get("errored") == "1":
        return ERRORED
    if request.args.get("wrong") == "1":
        return WRONG
    show = request.args.get("show", ALL)
    return show if show in (WRONG, ERRORED) else ALL


def _finished_tasks(evaluation: Evaluation, current: str, chosen: str) -> list[Link]:
    finished = [task.task for task in evaluation.tasks if task.state is State.FINISHED]
    return [
        Link(
            name,
            url_for("lmms.samples", run_id=evaluation.run_id, task=name, show=chosen),
            active=name == current,
        )
        for name in finished
    ]


def _no_media(core: Services, task: str, page: Sequence[Sample]) -> str:
    if any(sample.media or sample.references for sample in page):
        return "No picture is stored for this sample."
    known = core.catalogue().tasks.get(task)
    kind = _MEDIA.get(known.modality.value) if known is not None else None
    return f"No {kind} is stored for this sample." if kind else ""


def _view(run_id: str, task: str, sample: Sample, result: TaskResult) -> SampleView:
    primary = result.primary_metric
    key = f"{primary.metric}:{primary.filter}" if primary else ""
    said = " / ".join(sample.responses)
    filtered = sample.filtered.get(primary.filter, "") if primary else ""
    options = option_scores(sample.responses) if result.output_type in _LOG_LIKELIHOODS else []
    return SampleView(
        doc_id=sample.doc_id,
        pictures=[_picture(run_id, task, sample, number) for number in range(sample.media)],
        not_stored=[media_words(reference) for reference in sample.references if not reference.stored],
        cost=cost_words(sample),
        input=sample.input,
        target=sample.target,
        responses=sample.responses,
        options=options,
        expected_option=expected_option(sample.target, len(options)),
        filtered="" if options or filtered == said else filtered,
        verdict=_verdict(
            sample.scores.get(key), higher_is_better=primary is None or primary.higher_is_better is not False
        ),
        errored=sample.errored or "",
        scores={metric_label(*name.rsplit(":", 1)): value for name, value in sample.scores.items()},
        columns={name: sample.columns[name] for name in result.dimensions if sample.columns.get(name) is not None},
    )


def media_words(reference: MediaReference) -> str:
    """One picture, sound or video in words: what it is and how large."""
    size = f"{reference.width} × {reference.height}" if reference.width and reference.height else ""
    length = f"{short(reference.seconds)} s" if reference.seconds is not None else ""
    return ", ".join(word for word in (reference.kind, size, length, file_size(reference.bytes)) if word)


def cost_words(sample: Sample) -> str:
    """Tokens and seconds that the sample took; empty where neither is known."""
    words = [f"{count} {name} tokens" for name, count in sorted(sample.tokens.items())]
    return ", ".join(words + ([f"{short(sample.latency)} s"] if sample.latency is not None else []))


def _picture(run_id: str, task: str, sample: Sample, number: int) -> Picture:
    url = url_for("lmms_api.read_media", run_id=run_id, task=task, index=sample.index, number=number)
    return Picture(url, f"Picture {number + 1} of {sample.media} that the model was shown for sample {sample.doc_id}")


def _verdict(score: float | None, *, higher_is_better: bool) -> str:
    """In the words of the filter *wrong*: anything but the best score possible is wrong."""
    if score is None:
        return ""
    return "right" if (score >= 1 if higher_is_better else score <= 0) else "wrong"
