"""Tables by which the score index follows MLflow. Losing them costs no result: the next sweep looks at every run."""

from __future__ import annotations

from sqlalchemy import BigInteger, Float, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from mlflow_lmms.sql.schema import Base


class DirtyRow(Base):
    """A run, or an experiment with all its runs, that was written to and is still to be looked at.

    Rows are added and removed, never changed, save `after` (the experiment's last run that was looked at): who has
    looked removes exactly the rows that it had read, so that a later write stays noted.
    """

    __tablename__ = "lmms_dirty"

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer(), "sqlite"), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    target: Mapped[str] = mapped_column(String(64))
    after: Mapped[str] = mapped_column(String(64), default="")
    noted_at: Mapped[float] = mapped_column(Float)


class WalkRow(Base):
    """How far a walk over all of MLflow's runs, in the order of their ids, has come: `sweep`, `reindex` or `poll`."""

    __tablename__ = "lmms_walks"

    name: Mapped[str] = mapped_column(String(16), primary_key=True)
    after: Mapped[str] = mapped_column(String(64))
    done: Mapped[int] = mapped_column(Integer)
    total: Mapped[int] = mapped_column(Integer)
    started_at: Mapped[float] = mapped_column(Float)
    ended_at: Mapped[float | None] = mapped_column(Float)
