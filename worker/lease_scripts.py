"""The Lua scripts that write leases: each runs in Redis as one step. Called by `worker.leases` alone.

Keys: ``lmms:leases`` (sorted set, score = expiry by Redis TIME), ``lmms:fence`` (counter of tokens),
``lmms:lease:<job>`` (hash); they read what `mlflow_lmms.queue_keys` describes.
An expired lease still holds its GPUs and its job until it is swept: its processes may be alive until then.
"""

from __future__ import annotations

from importlib.resources import files

from rq.defaults import RQ_KEY_PREFIX

from mlflow_lmms.queue_keys import BOX_STATE_KEY, CANCEL_KEY, FENCE_KEY, LEASES_KEY, PLAN_STARTS_KEY, QUEUES

#: What every script gets as KEYS, in the order that ``common.lua`` takes them in.
KEYS = (
    *(LEASES_KEY, FENCE_KEY, CANCEL_KEY, PLAN_STARTS_KEY, BOX_STATE_KEY),
    *(f"{RQ_KEY_PREFIX}:queue:{name}" for name in QUEUES),
)


def _script(*parts: str) -> str:
    """One script of several files; each tells its arguments and answers at its head."""
    folder = files("worker") / "lua"
    return "\n".join((folder / f"{part}.lua").read_text(encoding="utf-8") for part in ("common", *parts))


CLAIM = _script("room", "need", "claim")
RENEW = _script("renew")
RELEASE = _script("release")
FINISH = _script("finish")
FREE_GPUS = _script("free_gpus")
RAISE_FENCE = _script("raise_fence")
