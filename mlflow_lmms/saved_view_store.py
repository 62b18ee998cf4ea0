"""The saved views' tables: revisions are added and never changed. Who may see and change one is decided here.

A revision names the experiments behind it. Whoever may not read all of them is told that there is no such revision,
and of a view whose newest revision is hidden, that there is no such view.
"""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Callable, Collection

from sqlalchemy import Engine, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from mlflow_lmms.errors import ConflictError, InvalidRequestError, NotAllowedError, NotFoundError
from mlflow_lmms.saved_view import View, ViewRevision, parse_view, view_json
from mlflow_lmms.sql.schema_saved import SavedViewRevisionRow, SavedViewRow

_ID = re.compile(r"[0-9a-f]{32}")
#: Ids of experiments that the caller may read; None: all.
Readable = Collection[str] | None


class SavedViewStore:
    """Reads and writes saved views. Used by the server process alone."""

    def __init__(self, engine: Engine, *, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._now = clock

    def heads(
        self, readable: Readable, *, by: str | None, kind: str | None = None, archived: bool = False
    ) -> list[ViewRevision]:
        """The newest revision of each view that is the caller's (`by`) or shared, by name."""
        newest = (SavedViewRevisionRow.view_id == SavedViewRow.view_id) & (
            SavedViewRevisionRow.revision == SavedViewRow.revision
        )
        query = select(SavedViewRow, SavedViewRevisionRow).join(SavedViewRevisionRow, newest)
        if kind is not None:
            query = query.where(SavedViewRow.kind == kind)
        with self._session() as session:
            rows = [(head, row) for head, row in session.execute(query) if _may_see(row, readable)]
        found = [_revision(head, row) for head, row in rows]
        listed = [r for r in found if (r.owner == by or r.view.shared) and r.view.archived is archived]
        return sorted(listed, key=lambda revision: (revision.view.name.casefold(), revision.id))

    def get(self, view_id: str, readable: Readable, revision: int | None = None) -> ViewRevision:
        """One revision of a view, the newest where none is named.

        Raises:
            NotFoundError: no such view or revision, or the caller may not see it.
        """
        with self._session() as session:
            head, newest = _newest(session, view_id, readable)
            row = newest if revision is None else session.get(SavedViewRevisionRow, (view_id, revision))
        if row is None or not _may_see(row, readable):
            raise NotFoundError(
                f"view {view_id} has no revision {revision}, or you may not see it; its newest is {head.revision}"
            )
        return _revision(head, row)

    def history(self, view_id: str, readable: Readable) -> list[ViewRevision]:
        """The revisions that the caller may see, newest first.

        Raises:
            NotFoundError: no such view, or the caller may not see it.
        """
        query = select(SavedViewRevisionRow).where(SavedViewRevisionRow.view_id == view_id)
        with self._session() as session:
            head, _ = _newest(session, view_id, readable)
            rows = list(session.scalars(query.order_by(SavedViewRevisionRow.revision.desc())))
        return [_revision(head, row) for row in rows if _may_see(row, readable)]

    def add(self, view: View, experiments: Collection[str], *, by: str | None, note: str = "") -> ViewRevision:
        """Make a view, under an id that nobody guesses; `by` is its owner."""
        now = self._now()
        head = SavedViewRow(view_id=uuid.uuid4().hex, kind=view.kind, owner=by, created_at=now, revision=1)
        row = _row(head, view, experiments, by, now, note)
        with self._session() as session, session.begin():
            session.add(head)
            session.flush()
            session.add(row)
        return _revision(head, row)

    def change(
        self,
        view_id: str,
        view: View,
        experiments: Collection[str],
        *,
        by: str | None,
        is_admin: bool,
        readable: Readable,
        note: str = "",
        base: int | None = None,
    ) -> tuple[ViewRevision, bool]:
        """Add a revision; content that is the newest already adds none.

        Args:
            base: the revision that the change was made from, where a newer one must not be passed over.

        Returns:
            The newest revision, and whether this call made it.

        Raises:
            NotFoundError: no such view, or the caller may not see it.
            NotAllowedError: it is somebody else's.
            InvalidRequestError: it is of the other kind.
            ConflictError: it has a newer revision than `base`, or got one this very moment.
        """
        try:
            with self._session() as session, session.begin():
                head, newest = _newest(session, view_id, readable, lock=True)
                if not is_admin and head.owner != by:
                    raise NotAllowedError(
                        f"view {view_id} is {head.owner or 'nobody'}'s: only its owner or an administrator may "
                        "change it; save yours as a new one"
                    )
                _check_change(head, view, base)
                if newest.content == _content(view):
                    return _revision(head, newest), False
                head.revision += 1
                row = _row(head, view, experiments, by, self._now(), note)
                session.add(row)
                session.flush()
                return _revision(head, row), True
        except IntegrityError:
            raise ConflictError(f"view {view_id} was changed at the same time: look at it and try again") from None

    def _session(self) -> Session:
        return Session(self._engine, expire_on_commit=False)


def _newest(
    session: Session, view_id: str, readable: Readable, *, lock: bool = False
) -> tuple[SavedViewRow, SavedViewRevisionRow]:
    known = _ID.fullmatch(view_id)  # PostgreSQL is not asked for what no text of its can hold
    head = session.get(SavedViewRow, view_id, with_for_update=lock) if known else None
    row = session.get_one(SavedViewRevisionRow, (view_id, head.revision)) if head is not None else None
    if head is None or row is None or not _may_see(row, readable):
        raise NotFoundError(
            f"view {view_id} does not exist, or you may not see it; `mlflow-lmms view list` shows all"
        )
    return head, row


def _check_change(head: SavedViewRow, view: View, base: int | None) -> None:
    if head.kind != view.kind:
        raise InvalidRequestError(f"view {head.view_id} is a {head.kind} and cannot become a {view.kind}")
    if base is not None and base != head.revision:
        raise ConflictError(
            f"view {head.view_id} is at revision {head.revision}, the change was made from {base}: look at it again"
        )


def _may_see(row: SavedViewRevisionRow, readable: Readable) -> bool:
    return readable is None or set(json.loads(row.experiments)) <= set(readable)


def _content(view: View) -> str:
    return json.dumps(view_json(view), ensure_ascii=False, sort_keys=True)


def _row(
    head: SavedViewRow, view: View, experiments: Collection[str], by: str | None, now: float, note: str
) -> SavedViewRevisionRow:
    return SavedViewRevisionRow(
        view_id=head.view_id,
        revision=head.revision,
        content=_content(view),
        experiments=json.dumps(sorted(experiments)),
        created_by=by,
        created_at=now,
        note=note,
    )


def _revision(head: SavedViewRow, row: SavedViewRevisionRow) -> ViewRevision:
    return ViewRevision(
        id=head.view_id,
        owner=head.owner,
        made_at=head.created_at,
        revision=row.revision,
        view=parse_view(json.loads(row.content)),
        created_by=row.created_by,
        created_at=row.created_at,
        note=row.note,
    )
