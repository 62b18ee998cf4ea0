"""The fleet as tables for a terminal. Values in (the API's answer), drawings out."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from mlflow_lmms.cli.output import duration, shown

_COLOURS = {"open": "green", "paused": "yellow", "draining": "yellow", "drained": "yellow", "offline": "red"}
_GIB = 1 << 30
_BAR = 8


def fleet_tables(fleet: dict[str, Any]) -> RenderableType:
    """Boxes, GPUs, work and queue of one moment."""
    if not fleet["boxes"] and not fleet["queue"]:
        return "no box has ever announced itself; start one with `mlflow-lmms worker`"
    parts: list[RenderableType] = [_boxes(fleet)]
    if any(box["gpus"] for box in fleet["boxes"]):
        parts += ["", _gpus(fleet)]
    cpu_work = [lease for lease in fleet["leases"] if not lease["gpus"]]
    if cpu_work:
        parts += ["", _work_without_gpu(cpu_work, fleet["at"])]
    parts += ["", _queue(fleet)]
    if kept := fleet["reservation"]:
        soon = duration(max(0.0, kept["expected_at"] - fleet["at"]))
        parts.append(
            f"{len(kept['gpus'])} of {escape(kept['box'])} kept for {_name(kept)}, which may start in {soon}"
        )
    return Group(*parts)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _boxes(fleet: dict[str, Any]) -> Table:
    table = _table("Boxes", "box", "state", "GPUs in use", "work", "labels", "environments", "version", "note")
    for box in fleet["boxes"]:
        here = [lease for lease in fleet["leases"] if lease["box"] == box["name"]]
        busy = len({uuid for lease in here for uuid in lease["gpus"]})
        colour = _COLOURS.get(box["state"], "white")
        table.add_row(
            escape(box["name"]),
            f"[{colour}]{box['state']}[/]",
            f"{busy} of {len(box['gpus'])}",
            f"{len(here)} of {box['cpu_slots'] + box['gpu_slots']} slots",
            shown(box["labels"]),
            shown(box["environments"]),
            f"{escape(box['version'])} (protocol {box['protocol']})",
            _note(box, fleet["at"]),
        )
    return table


def _note(box: dict[str, Any], now: float) -> str:
    notes = []
    if box["state"] in ("paused", "drained"):
        by = f" by {box['changed_by']}" if box["changed_by"] else ""
        notes.append(f"{box['state']}{by}" + (f": {box['reason']}" if box["reason"] else ""))
    if box["state"] == "offline" and box["seen_at"]:
        notes.append(f"last seen {duration(now - box['seen_at'])} ago")
    if box["until"]:
        notes.append(f"ends in {duration(max(0.0, box['until'] - now))}")
    if box["warning"]:
        notes.append(box["warning"])
    return escape("; ".join(notes))


def _gpus(fleet: dict[str, Any]) -> Table:
    table = _table("GPUs", "box", "#", "GPU", "memory", "use", "°C", "W", "held by", "for")
    held: dict[str, list[dict[str, Any]]] = {}
    for lease in fleet["leases"]:
        for uuid in lease["gpus"]:
            held.setdefault(uuid, []).append(lease)
    for box in fleet["boxes"]:
        for gpu in box["gpus"] if box["state"] != "offline" else ():
            leases = held.get(gpu["uuid"], [])
            since = [lease["since"] for lease in leases if lease["since"]]
            table.add_row(
                escape(box["name"]),
                shown(gpu["index"]),
                escape(gpu["name"]) + (" (slice)" if gpu["is_slice"] else ""),
                _memory(gpu),
                _bar(gpu["utilisation"]),
                _whole(gpu["temperature"]),
                _whole(gpu["power_w"]),
                ", ".join(_name(lease) for lease in leases) or _idle(gpu),
                duration(fleet["at"] - min(since)) if since else "",
            )
    return table


def _idle(gpu: dict[str, Any]) -> str:
    if gpu["problem"] or not gpu["usable"]:
        return f"[red]{escape(gpu['problem'] or 'cannot be used')}[/]"
    if gpu["foreign"]:
        return f"[yellow]others use {gpu['foreign'] / _GIB:.1f} GiB[/]"
    return "[dim]idle[/]"


def _memory(gpu: dict[str, Any]) -> str:
    if not gpu["memory"]:
        return "–"
    used = "–" if gpu["free"] is None else f"{(gpu['memory'] - gpu['free']) / _GIB:.1f}"
    return f"{used} of {gpu['memory'] / _GIB:.0f} GiB"


def _bar(percent: float | None) -> str:
    if percent is None:
        return "–"
    full = round(_BAR * percent / 100)
    return f"[cyan]{'█' * full}[/][dim]{'░' * (_BAR - full)}[/] {percent:3.0f} %"


def _whole(number: float | None) -> str:
    return "–" if number is None else f"{number:.0f}"


def _work_without_gpu(leases: list[dict[str, Any]], now: float) -> Table:
    table = _table("Work without a GPU", "box", "slot", "run", "user", "for")
    for lease in leases:
        since = duration(now - lease["since"]) if lease["since"] else "–"
        table.add_row(escape(lease["box"]), escape(lease["slot"]), _name(lease), shown(lease["user"]), since)
    return table


def _queue(fleet: dict[str, Any]) -> RenderableType:
    if not fleet["queue"]:
        return "nothing waits"
    table = _table("Queue", "#", "run", "user", "GPUs", "priority", "waits", "why")
    for entry in fleet["queue"]:
        why = entry["reason"] or (entry["cause"] or "is about to start").replace("_", " ")
        waits = duration(max(0.0, fleet["at"] - entry["queued_at"]))
        table.add_row(
            str(entry["place"]),
            _name(entry),
            shown(entry["user"]),
            str(entry["gpus"]),
            entry["priority"],
            waits,
            escape(why),
        )
    return table


def _name(entry: dict[str, Any]) -> str:
    """A run's name and id; one that may not be read has neither."""
    if entry["run_id"] is None:
        return "[dim]another's[/]"
    return f"{escape(entry['name'] or '')} [dim]{entry['run_id'][:8]}[/]".strip()
