"""Gates for people and programs: finds the suite, the margins and the results, judges, and records the verdict."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mlflow import MlflowClient

from mlflow_lmms.catalogue import Catalogue
from mlflow_lmms.errors import InvalidRequestError, NotFoundError
from mlflow_lmms.gate_record import record_verdict
from mlflow_lmms.gate_rules import GateRequest, TaskRule, task_rules
from mlflow_lmms.gate_sides import Side, Sides
from mlflow_lmms.gate_verdict import run_gate
from mlflow_lmms.run_reader import RunReader
from mlflow_lmms.score import Score
from mlflow_lmms.score_index import ScoreIndex
from mlflow_lmms.slice_report import guard_slices
from mlflow_lmms.suite import SuiteRevision
from mlflow_lmms.suite_store import SuiteStore
from mlflow_lmms.task_plan import leaves

#: Goes on only when the caller may write onto this registered model.
MayRecord = Callable[[str], None]


@dataclass(frozen=True)
class GateService:
    """Judges what the caller may read. Used by the server process alone."""

    client: MlflowClient
    scores: ScoreIndex
    reader: RunReader
    suites: SuiteStore
    catalogue: Callable[[], Catalogue]
    clock: Callable[[], float] = time.time

    def judge(
        self,
        asked: GateRequest,
        *,
        experiment_ids: Collection[str] | None,
        by: str | None = None,
        may_record: MayRecord = lambda name: None,
    ) -> dict[str, Any]:
        """The verdict as plain values; written onto the candidate's model version where that is asked for.

        Args:
            experiment_ids: what the caller may read; None means everything.
            by: who asks.
            may_record: called with the model's name before anything is computed; raises where that is not allowed.

        Raises:
            NotFoundError: no such suite, run or model version.
            InvalidRequestError: no margin is known, or candidate and baseline are the same.
        """
        suite = self._suite(asked.suite)
        entries = leaves(suite.suite, self.catalogue()) if suite else {}
        primary = (
            {task: entry.primary for entry in suite.suite.tasks for task in entries[entry.task]} if suite else {}
        )
        tasks = [task for found in entries.values() for task in found] if suite else None
        sides = Sides(
            self.client,
            self.scores,
            experiment_ids=experiment_ids,
            suite=suite.name if suite else None,
            primary=primary,
        )
        baseline, candidate = sides.find(asked.baseline, tasks), sides.find(asked.candidate, tasks)
        _must_differ(candidate, baseline)
        if suite is None and not baseline.results:
            raise NotFoundError(f"the baseline {asked.baseline} has no results to be judged by (yet)")
        rules = task_rules(asked, suite.suite if suite else None, entries, sorted(baseline.results))
        if asked.record and candidate.version is not None:
            may_record(candidate.version.name)
        told = self._judged(asked, suite, rules, candidate, baseline, by)
        told["recorded"] = (
            record_verdict(self.client, candidate.version, told) if asked.record and candidate.version else []
        )
        return told

    def _judged(
        self,
        asked: GateRequest,
        suite: SuiteRevision | None,
        rules: Sequence[TaskRule],
        candidate: Side,
        baseline: Side,
        by: str | None,
    ) -> dict[str, Any]:
        def guard(first: Score, second: Score, margin: float, dimensions: Sequence[str]) -> Any:
            return guard_slices(self.reader, first, second, margin, dimensions)

        found = run_gate(
            baseline.results,
            candidate.results,
            rules,
            self.reader.vector,
            guard,
            suite_margin=asked.suite_margin,
            partial=asked.partial,
            flagged=asked.flagged,
            lenient_slices=asked.lenient_slices,
        )
        at = datetime.fromtimestamp(self.clock(), UTC).isoformat(timespec="seconds")
        about: Mapping[str, Any] = {
            "candidate": candidate.as_json(),
            "baseline": baseline.as_json(),
            "suite": {"name": suite.name, "revision": suite.revision} if suite else None,
            "by": by,
            "at": at,
            "asked": asked.model_dump(mode="json", exclude_defaults=True),
        }
        return {**found.as_json(), **about}

    def _suite(self, named: str | None) -> SuiteRevision | None:
        if named is None:
            return None
        name, _, revision = named.partition("@")
        if revision and not (revision.isascii() and revision.isdecimal() and 0 < int(revision) < 10**9):
            raise InvalidRequestError(f"suite: expected NAME or NAME@REVISION, got {named!r}")
        return self.suites.get(name, int(revision) if revision else None)


def _must_differ(candidate: Side, baseline: Side) -> None:
    same_version = candidate.version is not None and candidate.version == baseline.version
    if candidate.asked == baseline.asked or (same_version and candidate.results == baseline.results):
        raise InvalidRequestError(
            f"candidate and baseline are both {candidate.model}: there is nothing to judge; name another baseline"
        )
