"""A saved view: a board (a stored query) or a comparison (runs, baseline, tasks, filters, notes), with a name. Pure.

What it shows is not kept: it is asked anew whenever it is opened, so that new runs are in it, and every reader sees
what that reader may see.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError, model_validator

from mlflow_lmms.board_query import BoardQuery
from mlflow_lmms.comparison import TaskComparison, Verdict, compare_with_baseline
from mlflow_lmms.errors import InvalidRequestError, NotFoundError
from mlflow_lmms.problems import problems
from mlflow_lmms.request import TaskName
from mlflow_lmms.score import Score, Vectors

NOTES_LIMIT = 20_000
MOST_RUNS = 50

Title = Annotated[
    str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]*[^\x00-\x20\x7f][^\x00-\x1f\x7f]*$", max_length=200)
]
Notes = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$", max_length=NOTES_LIMIT)]
RunId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_\-]{1,64}$")]


class _View(BaseModel):
    """What both kinds have.

    Attributes:
        shared: whether it stands in everybody's list; by its id everybody may open it who may read what is in it.
        archived: whether it is left out of lists. Nothing is ever deleted.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Title
    notes: Notes = ""
    shared: bool = False
    archived: bool = False


class SavedBoard(_View):
    """A board: the query that makes it."""

    kind: Literal["board"] = "board"
    query: BoardQuery = BoardQuery()


class ComparisonFilters(BaseModel):
    """Which of the compared tasks are shown; the verdicts stay corrected for all of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    verdicts: Annotated[tuple[Verdict, ...], Field(max_length=20)] = ()
    search: Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00]*$")] = ""

    def shows(self, task: TaskComparison) -> bool:
        """Whether the task is shown: all words in its name, and one of the verdicts for some candidate."""
        named = all(word.casefold() in task.task.casefold() for word in self.search.split())
        found = {candidate.verdict for candidate in task.candidates.values()}
        return named and (not self.verdicts or not found.isdisjoint(self.verdicts))


class SavedComparison(_View):
    """Runs against a baseline, the first of them where none is named; without tasks all that the baseline has."""

    kind: Literal["comparison"] = "comparison"
    runs: Annotated[tuple[RunId, ...], Field(min_length=2, max_length=MOST_RUNS)]
    baseline: RunId | None = None
    tasks: Annotated[tuple[TaskName, ...], Field(max_length=2000)] = ()
    filters: ComparisonFilters = ComparisonFilters()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if len(set(self.runs)) < len(self.runs):
            raise ValueError("runs: name each run once")
        if self.baseline is not None and self.baseline not in self.runs:
            raise ValueError(f"baseline: expected one of the runs, got {self.baseline!r}")
        return self

    @property
    def ordered(self) -> tuple[str, ...]:
        """The runs, the baseline first."""
        first = self.baseline or self.runs[0]
        return (first, *(run_id for run_id in self.runs if run_id != first))

    def opened(self, scores: Collection[Score], vectors: Vectors) -> dict[str, Any]:
        """What the comparison shows now, as plain values.

        Beside what every comparison tells, `missing` are runs without results (any more) and `filtered` is the number
        of tasks that the filters hide; counts and corrected verdicts are over all tasks.

        Raises:
            NotFoundError: the baseline has no results (any more).
        """
        known = {score.run_id for score in scores}
        baseline, *others = self.ordered
        if baseline not in known:
            raise NotFoundError(f"the baseline, run {baseline}, has no results to compare with (any more)")
        present = [baseline, *(run_id for run_id in others if run_id in known)]
        found = compare_with_baseline(present, scores, vectors, self.tasks or None)
        shown = {task.task for task in found.tasks if self.filters.shows(task)}
        told = found.as_json()
        return told | {
            "tasks": [task for task in told["tasks"] if task["task"] in shown],
            "missing": [run_id for run_id in others if run_id not in known],
            "filtered": len(found.tasks) - len(shown),
        }


View = SavedBoard | SavedComparison
_VIEW: TypeAdapter[View] = TypeAdapter(Annotated[View, Field(discriminator="kind")])


def parse_view(content: Any) -> View:
    """Check values and return the view.

    Raises:
        InvalidRequestError: with every problem, each with its field.
    """
    if not isinstance(content, Mapping):
        raise InvalidRequestError(f"view: expected an object with kind and name, got {type(content).__name__}")
    try:
        return _VIEW.validate_python(content)
    except ValidationError as error:
        raise InvalidRequestError(problems(error, "view")) from None


def view_json(view: View) -> dict[str, Any]:
    """Plain values that `parse_view` reads back; what is not set is left out."""
    return {"kind": view.kind, **view.model_dump(mode="json", exclude_defaults=True)}


@dataclass(frozen=True)
class ViewRevision:
    """One revision of a saved view: what it was then, who made it, when and why."""

    id: str
    owner: str | None
    made_at: float
    revision: int
    view: View
    created_by: str | None
    created_at: float
    note: str

    def as_json(self) -> dict[str, Any]:
        """Plain values for programs; `created_at` is the revision's, `made_at` the view's own."""
        return {
            "id": self.id,
            "kind": self.view.kind,
            "name": self.view.name,
            "owner": self.owner,
            "made_at": self.made_at,
            "revision": self.revision,
            "created_by": self.created_by,
            "created_at": self.created_at,
            "note": self.note,
            "view": view_json(self.view),
        }
