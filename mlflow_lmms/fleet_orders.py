"""What the server tells the boxes through Redis: the plan, and whether a box may take work. Written by the leader.

The claim on a box follows a plan for a few seconds only, and checks each start again: a plan is advice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mlflow_lmms.planner.fleet import Plan
from mlflow_lmms.queue_connection import QueueConnection
from mlflow_lmms.queue_keys import (
    BOX_STATE_KEY,
    KNOWN_BOXES_KEY,
    PLAN_AT_KEY,
    PLAN_STARTS_KEY,
    RESERVATION_KEY,
    WAITS_KEY,
    WAKE_CHANNEL,
    box_key,
    reservation_json,
    start_json,
)

#: What is said on the wake channel when there is a new plan.
PLAN_WORD = "plan"


class FleetOrders:
    """Writes plans and states of boxes.

    Every method raises `UnavailableError` when the queue server does not answer.
    """

    def __init__(self, redis_url: str, *, timeout_s: float = 2.0) -> None:
        self._connection = QueueConnection(redis_url, timeout_s=timeout_s)
        self._redis = self._connection.redis

    def publish(self, plan: Plan, made_at: float, *, with_waits: bool = True) -> None:
        """Replace the plan as one step; `made_at` is when its state was read, by the queue server's clock."""
        starts: dict[Any, Any] = {start.job: start_json(start) for start in plan.starts}
        waits: dict[Any, Any] = {
            wait.job: json.dumps({"cause": wait.cause, "reason": wait.reason}) for wait in plan.waits
        }
        with self._connection.answering(), self._redis.pipeline() as pipeline:
            pipeline.delete(PLAN_STARTS_KEY)
            if starts:
                pipeline.hset(PLAN_STARTS_KEY, mapping=starts)
            if plan.reservation:
                pipeline.set(RESERVATION_KEY, reservation_json(plan.reservation))
            else:
                pipeline.delete(RESERVATION_KEY)
            if with_waits:
                pipeline.delete(WAITS_KEY)
                if waits:
                    pipeline.hset(WAITS_KEY, mapping=waits)
            pipeline.set(PLAN_AT_KEY, repr(made_at))
            if starts:
                pipeline.publish(WAKE_CHANNEL, PLAN_WORD)
            pipeline.execute()

    def keep_fresh(self) -> None:
        """The plan still holds: nothing has changed since it was made."""
        with self._connection.answering():
            self._redis.set(PLAN_AT_KEY, repr(self._connection.now()))

    def show_states(self, states: Mapping[str, str]) -> bool:
        """Let the boxes know the admins' words; others than these are taken back. Whether any had changed."""
        with self._connection.answering(), self._redis.pipeline() as pipeline:
            shown: Any = self._redis.hgetall(BOX_STATE_KEY)
            if shown == dict(states):
                return False
            told: dict[Any, Any] = dict(states)
            pipeline.delete(BOX_STATE_KEY)
            if told:
                pipeline.hset(BOX_STATE_KEY, mapping=told)
            pipeline.publish(WAKE_CHANNEL, BOX_STATE_KEY)
            pipeline.execute()
        return True

    def forget(self, box: str) -> bool:
        """Drop a box that is away from the fleet; one that still announces itself is back within a second."""
        with self._connection.answering():
            gone: Any = self._redis.hdel(KNOWN_BOXES_KEY, box)
            self._redis.delete(box_key(box))
        return bool(gone)
