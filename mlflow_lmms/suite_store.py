"""The suites' tables: revisions are added and never changed. Who may change a suite is decided here."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from sqlalchemy import Engine, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from mlflow_lmms.errors import ConflictError, NotAllowedError, NotFoundError
from mlflow_lmms.sql.schema import SuiteRevisionRow, SuiteRow
from mlflow_lmms.suite import Suite, SuiteHead, SuiteRevision


class SuiteStore:
    """Reads and writes suites. Used by the server process alone."""

    def __init__(self, engine: Engine, *, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._now = clock

    def heads(self) -> list[SuiteHead]:
        """Every suite with its newest revision, by name."""
        newest = (SuiteRevisionRow.name == SuiteRow.name) & (SuiteRevisionRow.revision == SuiteRow.revision)
        with self._session() as session:
            found = session.execute(select(SuiteRow, SuiteRevisionRow).join(SuiteRevisionRow, newest)).all()
        heads = [SuiteHead(_revision(row), suite.author, suite.created_at) for suite, row in found]
        return sorted(heads, key=lambda head: head.newest.name)

    def find(self, name: str, revision: int | None = None) -> SuiteRevision | None:
        """One revision of a suite, the newest where none is named; None when there is no such suite.

        Raises:
            NotFoundError: the suite has no such revision.
        """
        with self._session() as session:
            suite = session.get(SuiteRow, name)
            if suite is None:
                return None
            row = session.get(SuiteRevisionRow, (name, revision or suite.revision))
        if row is None:
            raise NotFoundError(f"suite {name!r} has no revision {revision}; its newest is {suite.revision}")
        return _revision(row)

    def get(self, name: str, revision: int | None = None) -> SuiteRevision:
        """As `find`, for a suite that must be there.

        Raises:
            NotFoundError: no such suite or revision.
        """
        found = self.find(name, revision)
        if found is None:
            raise NotFoundError(f"there is no suite {name!r}; `mlflow-lmms suite list` shows all")
        return found

    def history(self, name: str) -> list[SuiteRevision]:
        """Every revision, newest first.

        Raises:
            NotFoundError: no such suite.
        """
        query = select(SuiteRevisionRow).where(SuiteRevisionRow.name == name)
        with self._session() as session:
            rows = list(session.scalars(query.order_by(SuiteRevisionRow.revision.desc())))
        if not rows:
            self.get(name)
        return [_revision(row) for row in rows]

    def author(self, name: str) -> str | None:
        """Who made the suite; None where nobody had to sign in.

        Raises:
            NotFoundError: no such suite.
        """
        with self._session() as session:
            suite = session.get(SuiteRow, name)
        if suite is None:
            raise NotFoundError(f"there is no suite {name!r}; `mlflow-lmms suite list` shows all")
        return suite.author

    def put(
        self, suite: Suite, *, by: str | None, is_admin: bool, note: str = "", base: int | None = None
    ) -> tuple[SuiteRevision, bool]:
        """Make the suite, or add a revision to it; content that is the newest already adds none.

        Args:
            by: the signed-in user: who makes a suite is its author.
            base: the revision that the change was made from, where a newer one must not be passed over.

        Returns:
            The newest revision, and whether this call made it.

        Raises:
            NotAllowedError: the suite is somebody else's.
            ConflictError: it has a newer revision than `base`, or got one this very moment.
        """
        try:
            with self._session() as session, session.begin():
                return self._put(session, suite, by, is_admin, note, base)
        except IntegrityError:
            raise ConflictError(
                f"suite {suite.name!r} was changed at the same time: look at it and try again"
            ) from None

    def _put(
        self, session: Session, suite: Suite, by: str | None, is_admin: bool, note: str, base: int | None
    ) -> tuple[SuiteRevision, bool]:
        now = self._now()
        row = session.get(SuiteRow, suite.name, with_for_update=True)
        if row is None:
            row = SuiteRow(name=suite.name, author=by, created_at=now, revision=0)
            session.add(row)
            session.flush()
        else:
            newest = session.get_one(SuiteRevisionRow, (suite.name, row.revision))
            if not is_admin and row.author != by:
                raise NotAllowedError(
                    f"suite {suite.name!r} is {row.author or 'nobody'}'s: only its author or an administrator may "
                    "change it; store yours under another name"
                )
            if base is not None and base != row.revision:
                raise ConflictError(
                    f"suite {suite.name!r} is at revision {row.revision}, the change was made from {base}: "
                    "look at it again"
                )
            if Suite.parse(json.loads(newest.content)) == suite:
                return _revision(newest), False
        row.revision += 1
        added = SuiteRevisionRow(
            name=suite.name,
            revision=row.revision,
            content=json.dumps(suite.as_json(), ensure_ascii=False),
            created_by=by,
            created_at=now,
            note=note,
        )
        session.add(added)
        session.flush()
        return _revision(added), True

    def _session(self) -> Session:
        return Session(self._engine, expire_on_commit=False)


def _revision(row: SuiteRevisionRow) -> SuiteRevision:
    suite = Suite.parse(json.loads(row.content))
    return SuiteRevision(suite, row.revision, row.created_by, row.created_at, row.note)
