"""Evaluates the tasks of one request, one after the other, with one model.

Owns the order of work and what a failure of one task means for the others. Scores are lmms-eval's:
`simple_evaluate` runs once per leaf task with what its own command would pass. (lmms-eval 0.7.3.)
"""

from __future__ import annotations

import contextlib
import os
import time
from argparse import Namespace
from collections.abc import Iterator
from typing import Any

from lmms_eval import evaluator
from lmms_eval.__main__ import parse_eval_args

from worker.runner.answers import AnswerStore
from worker.runner.chunks import ChunkedExecution, chunked
from worker.runner.environment import write_environment
from worker.runner.events import EventWriter
from worker.runner.failures import Failure, TaskFailure, classify
from worker.runner.intervals import interval
from worker.runner.kept_answers import collect_answers
from worker.runner.loaded_model import LoadedModel
from worker.runner.output_files import escape
from worker.runner.progress import Progress
from worker.runner.request import RunRequest
from worker.runner.request_rate import RequestRate
from worker.runner.running_score import RunningScore
from worker.runner.sample_rows import read_rows
from worker.runner.stored_answers import refuse_steps
from worker.runner.task_guard import TaskGuard
from worker.runner.task_metrics import Metric, Outcome
from worker.runner.task_result import ResultWriter, counted_scores
from worker.runner.task_source import TaskSource
from worker.runner.world import World


class Evaluation:
    """The work of one runner process."""

    def __init__(
        self, request: RunRequest, events: EventWriter, progress: Progress, rate: RequestRate | None = None
    ) -> None:
        self._request = request
        self._events = events
        self._progress = progress
        self._results = ResultWriter(request, progress, events.log)
        self._rate = rate
        self._failed = False
        self._world = World()
        self._model_failure: Failure | None = None

    def run(self) -> bool:
        """Evaluate every task; tell whether each one has its result."""
        # Under an id that lmms-eval draws itself, its cache would forget an interrupted run.
        os.environ["LMMS_CACHE_RUN_ID"] = self._request.run_id
        with self._guard(*self._request.tasks) as start:
            self._progress.enter("model_load", None)  # only its adapter is looked up so far
            self._world = World.join(self._request.processes)
            model = LoadedModel(self._request.model, self._progress, self._request.rescore_from)
            if self._world.leads:
                write_environment(self._request.output_folder, model.adapter_class)
            self._progress.enter("dataset", None)
            self._source = TaskSource(self._request)
        if start.failed:
            return False
        tasks = self._agreed(self._load_tasks(model))
        while tasks:
            name, task = tasks.popitem()
            model.task, model.keep = name, bool(tasks)
            if self._model_failure is not None:
                self._fail(name, self._model_failure)
                continue
            with self._guard(name) as guard:
                self._evaluate(name, task, model)
            if guard.failed and self._world.several:
                break  # the ranks are no longer at the same place: they are started again for the rest
            if guard.failed:
                model.release_unused_memory()
        return not self._failed

    def _load_tasks(self, model: LoadedModel) -> dict[str, Any]:
        """Load all data sets before the model, so that a missing one is noticed in seconds. Last task first."""
        leaves: dict[str, Any] = {}
        with self._world.first_rank_first():
            for name in self._request.tasks:
                self._progress.enter("dataset", name)
                with self._guard(name):
                    for leaf, task in self._source.load(name, model.task_type).items():
                        leaves.setdefault(leaf, task)
        return dict(reversed(leaves.items()))

    def _agreed(self, tasks: dict[str, Any]) -> dict[str, Any]:
        """Leave out what a rank could not load, or the others would wait for it."""
        agreed = self._world.agree(tasks)
        for name in (name for name, lacking in agreed.items() if lacking and name in tasks):
            others = ", ".join(map(str, agreed[name]))
            message = f"the data set was loaded here, but not by rank {others}; its log says why"
            self._fail(name, Failure("dataset", message, ""))
        common = [name for name, lacking in agreed.items() if not lacking]
        self._events.tasks(common[::-1])
        return {name: tasks[name] for name in common}

    def _evaluate(self, name: str, task: Any, model: LoadedModel) -> None:
        self._progress.enter("dataset", name)
        documents = self._documents(task)
        self._events.task_started(name, len(documents))
        started = time.monotonic()
        cli_args, world = self._cli_args(), self._world
        with model.in_place_of_loading(), self._answering(name, task, documents, model, cli_args):
            results = self._simple_evaluate(name, task, cli_args)
        world.gather_requests(task)
        if world.leads:
            rows = read_rows(task, results["results"][name], results["samples"][name], documents, world.size)
            outcome = Outcome(name, task, results["results"][name], rows, time.monotonic() - started)
            self._record(outcome, cli_args)
        task._instances = None  # answers and media of a finished task would pile up

    @contextlib.contextmanager
    def _answering(
        self, name: str, task: Any, documents: range, model: LoadedModel, cli_args: Namespace
    ) -> Iterator[None]:
        """Keep a model's answers chunk by chunk; those of an earlier attempt need none of that."""
        request, world = self._request, self._world
        if request.rescore_from is not None:
            refuse_steps(name, str(task.config.output_type))
            yield
            return
        cache = request.cache_folder / escape(name)
        if world.leads:
            collect_answers(cache)
        world.wait()
        with contextlib.closing(AnswerStore(cache, world.rank if world.several else None)) as answers:
            execution = ChunkedExecution(
                answers=answers,
                progress=self._progress,
                task=name,
                largest=min(request.chunk_size, request.rate.per_minute) if request.rate else request.chunk_size,
                at_once=lambda: model.requests_at_once(request.batch_size),
                documents=len(world.share(documents)),
                listener=RunningScore(name, task, cli_args, self._events).add,
                rate=self._rate,
            )
            with chunked(execution):
                yield

    def _documents(self, task: Any) -> range:
        request, total = self._request, len(task.eval_docs)
        end = total if request.limit is None else min(total, request.offset + request.limit)
        if request.offset >= end:
            raise TaskFailure(
                "bad_request", f"expected an offset below the {total} documents of the task, got {request.offset}"
            )
        return range(request.offset, end)

    def _simple_evaluate(self, name: str, task: Any, cli_args: Namespace) -> Any:
        request, seeds = self._request, self._request.seeds
        return evaluator.simple_evaluate(
            model=request.model,
            model_args=request.model_args,
            tasks=[task],
            num_fewshot=request.num_fewshot,
            batch_size=request.batch_size,
            device=request.device,
            use_cache=None if request.rescore_from else str(request.cache_folder / escape(name)),
            limit=request.limit,
            offset=request.offset,
            log_samples=True,
            gen_kwargs=request.gen_kwargs,
            task_manager=self._source.manager,
            random_seed=seeds.python,
            numpy_random_seed=seeds.numpy,
            torch_random_seed=seeds.torch,
            fewshot_random_seed=seeds.fewshot,
            cli_args=cli_args,
            repeats=request.repeats or 1,
            process_docs_parallel=cli_args.process_docs_parallel,
            distributed_executor_backend=self._world.backend,
        )

    def _cli_args(self) -> Namespace:
        """Return what lmms-eval's own command would hand to tasks (defaults of its parser matter to scoring)."""
        request, seeds = self._request, self._request.seeds
        namespace: Namespace = parse_eval_args()[1]
        vars(namespace).update(
            model=request.model,
            model_args=request.model_args,
            tasks=",".join(request.tasks),
            num_fewshot=request.num_fewshot,
            batch_size=request.batch_size,
            device=request.device,
            limit=request.limit,
            offset=request.offset,
            gen_kwargs=request.gen_kwargs or "",
            repeats=request.repeats or 1,
            log_samples=True,
            output_path=str(request.output_folder),
            seed=[seeds.python, seeds.numpy, seeds.torch, seeds.fewshot],
        )
        return namespace

    def _record(self, outcome: Outcome, cli_args: Namespace) -> None:
        self._progress.enter("write", outcome.name)
        result, primary = self._results.write(outcome, cli_args)
        if primary is not None:
            self._events.score(outcome.name, _final_score(primary), final=True)
        self._events.task_finished(outcome.name, result)

    def _guard(self, *names: str) -> TaskGuard:
        def report(error: BaseException) -> None:
            phase = self._events.current_phase
            failure = classify(error, phase)
            if phase == "model_load":
                self._model_failure = failure
            for name in names:
                self._fail(name, failure)

        return TaskGuard(report)

    def _fail(self, name: str, failure: Failure) -> None:
        self._failed = True
        self._events.task_failed(name, failure.failure, failure.message, failure.traceback)


def _final_score(metric: Metric) -> dict[str, Any]:
    bounds = interval(counted_scores(metric), metric.factor) if metric.factor else None
    if bounds is None and metric.bounds is not None and metric.bounds.low is not None:
        bounds = (metric.bounds.low, metric.bounds.high or 0.0)
    if bounds is None and metric.value is not None and metric.reported.stderr is not None:
        half = 1.96 * metric.reported.stderr
        bounds = (metric.value - half, metric.value + half)
    low, high = bounds or (None, None)
    return {**metric.key._asdict(), "value": metric.value, "low": low, "high": high, "n": metric.n}
