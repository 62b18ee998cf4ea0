"""Which jobs wait for their files, and which box fetches them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlflow_lmms.catalogue import Catalogue, read_catalogue
from mlflow_lmms.catalogue.derived import Derived
from mlflow_lmms.catalogue.task import CatalogueTask
from mlflow_lmms.fetch_choice import FetchChoice, Held
from mlflow_lmms.fetch_items import FetchItem, fetch_items
from mlflow_lmms.fetch_orders import Fetches, FetchOrder, FetchState
from mlflow_lmms.planner.fleet import GIB, Box, BoxState, Cause, FleetState, Gpu, Job, Lease
from mlflow_lmms.planner.plan import plan
from mlflow_lmms.work_order import ResolvedModel

MODEL = FetchItem(kind="model", name="lab/small")
DATA = FetchItem(kind="dataset", name="lab/sums")
FILES = FetchItem(kind="artifact", name="m v3")
NOW = 1000.0
GB = 10**9


def box(name: str, gpus: int = 2, **facts: Any) -> Box:
    cards = tuple(Gpu(f"{name}-{number}", "A100", 80 * GIB) for number in range(gpus))
    return Box(name, cards, cpu_slots=1, gpu_slots=gpus, **facts)


def job(run: str = "r", gpus: int = 1, **facts: Any) -> Job:
    return Job(run=run, part="0", user="ada", gpus=gpus, **{"queued_at": NOW, **facts})


class Fleet:
    """Boxes `a` and `b` that share no cache, each with a fetcher; what is ordered, told and fetched so far."""

    def __init__(self, *boxes: Box, caches: dict[str, str] | None = None) -> None:
        self.boxes = boxes or (box("a"), box("b"))
        self.caches = caches or {one.name: f"cache-{one.name}" for one in self.boxes}
        self.alive = frozenset(self.caches)
        self.orders: dict[str, dict[str, FetchOrder]] = {}
        self.states: dict[str, dict[str, FetchState]] = {}
        self.fetched: dict[str, dict[str, float]] = {}
        self.leases: tuple[Lease, ...] = ()
        self.now = NOW

    def look(self, *jobs: Job, items: tuple[FetchItem, ...] = (MODEL, DATA), limit_s: float = 3600) -> Held:
        fetches = Fetches(self.now, self.alive, self.orders, self.states, self.fetched)
        state = FleetState(self.boxes, jobs, self.leases)
        needs = {one.id: items for one in jobs if one.gpus}
        choice = FetchChoice(state, self.caches, fetches, needs, limit_s, self.now)
        held = choice.decide()
        self.orders = {name: dict(orders) for name, orders in choice.orders.items() if orders}
        return held

    def ordered(self) -> dict[str, set[str]]:
        return {name: {order.item.name for order in orders.values()} for name, orders in self.orders.items()}

    def tell(self, name: str, item: FetchItem, **state: Any) -> None:
        self.states.setdefault(name, {})[item.key] = FetchState(**state)

    def has(self, place: str, *items: FetchItem, at: float = NOW) -> None:
        self.fetched.setdefault(place, {}).update({item.key: at for item in items})


def test_a_job_waits_until_one_box_has_its_files_and_then_goes_there() -> None:
    fleet = Fleet()
    held = fleet.look(job())
    assert held.state.jobs == () and [wait.cause for wait in held.waits] == [Cause.FETCHING]
    assert fleet.ordered() == {"a": {"lab/small", "lab/sums"}}
    fleet.tell("a", MODEL, state="fetching", done=12 * GB, total=33 * GB)
    assert fleet.look(job()).waits[0].reason == "its files are fetched on a: 36 %, 12 of 33 GB"
    fleet.has("cache-a", MODEL)
    assert fleet.look(job()).waits, "the data set is still missing"
    assert fleet.ordered() == {"a": {"lab/sums"}}
    fleet.has("cache-a", DATA)
    held = fleet.look(job())
    assert held.waits == () and fleet.ordered() == {}
    (ready,) = held.state.jobs
    assert ready.boxes == frozenset({"a"}) and ready.home == "a"
    assert [start.box for start in plan(held.state, NOW).starts] == ["a"]


def test_jobs_without_gpus_and_jobs_that_load_nothing_do_not_wait() -> None:
    fleet = Fleet()
    assert fleet.look(job(gpus=0)).state.jobs == (job(gpus=0),)
    assert fleet.look(job(), items=()).state.jobs == (job(),)
    assert fleet.ordered() == {}


def test_two_runs_of_one_model_are_one_order() -> None:
    fleet = Fleet()
    fleet.look(job("r"), job("s"))
    assert list(fleet.orders) == ["a"]
    assert fleet.orders["a"][MODEL.key].jobs == ("r-0", "s-0")
    fleet.look(job("s"))
    assert fleet.orders["a"][MODEL.key].jobs == ("s-0",), "the cancelled run is still in the order"
    fleet.look()
    assert fleet.ordered() == {}, "a fetch that nobody waits for goes on"


def test_boxes_that_share_a_cache_are_all_ready_when_one_has_fetched() -> None:
    fleet = Fleet(caches={"a": "shared", "b": "shared"})
    fleet.look(job())
    assert list(fleet.orders) == ["a"]
    fleet.has("shared", MODEL, DATA)
    assert fleet.look(job()).state.jobs[0].boxes == frozenset({"a", "b"})


def test_a_registered_model_s_files_are_there_for_their_box_alone() -> None:
    fleet = Fleet(caches={"a": "shared", "b": "shared"})
    fleet.has("box:b", FILES)
    assert fleet.look(job(), items=(FILES,)).state.jobs[0].boxes == frozenset({"b"})


def test_the_order_goes_where_the_job_would_find_its_place() -> None:
    fleet = Fleet()
    fleet.leases = (Lease("other-0", "bob", "a", ("a-0", "a-1"), NOW - 10, estimated_s=5000),)
    fleet.look(job())
    assert fleet.ordered() == {"b": {"lab/small", "lab/sums"}}
    fleet.leases = ()
    fleet.look(job())
    assert list(fleet.orders) == ["b"], "an order moved although it was under way"


def test_different_models_are_fetched_on_different_boxes_when_one_is_full() -> None:
    fleet = Fleet(box("a", 1), box("b", 1))
    other = replace(job("s"), gpus=1)
    needs = {"r-0": (MODEL,), "s-0": (DATA,)}
    state = FleetState(fleet.boxes, (job("r"), other))
    choice = FetchChoice(state, fleet.caches, Fetches(NOW, fleet.alive), needs, 3600, NOW)
    choice.decide()
    assert {name: len(orders) for name, orders in choice.orders.items() if orders} == {"a": 1, "b": 1}


def test_a_job_that_waits_long_for_its_box_is_fetched_for_elsewhere() -> None:
    fleet = Fleet()
    fleet.has("cache-a", MODEL, DATA)
    fleet.leases = (Lease("other-0", "bob", "a", ("a-0", "a-1"), NOW - 10, estimated_s=5000),)
    assert fleet.look(job()).state.jobs[0].boxes == frozenset({"a"})
    assert fleet.ordered() == {}
    fleet.now = NOW + 130
    held = fleet.look(job())
    assert held.state.jobs[0].boxes == frozenset({"a"}) and fleet.ordered() == {"b": {"lab/small", "lab/sums"}}
    fleet.tell("b", MODEL, state="failed", message="the disk became full")
    assert fleet.look(job()).state.jobs[0].boxes == frozenset({"a", "b"}), "it must not wait for a fetch that failed"


def test_a_job_that_waits_for_hours_stays_in_the_plan_while_its_files_are_looked_for_again() -> None:
    fleet = Fleet()
    fleet.has("cache-a", MODEL, DATA)
    fleet.now = NOW + 2000
    held = fleet.look(replace(job(), queued_at=fleet.now))
    assert held.state.jobs[0].boxes == frozenset({"a"}) and held.waits == ()
    assert fleet.ordered() == {"a": {"lab/small", "lab/sums"}}
    fleet.has("cache-a", MODEL, DATA, at=fleet.now)
    fleet.look(replace(job(), queued_at=fleet.now))
    assert fleet.ordered() == {}


def test_a_failed_fetch_is_tried_at_one_more_place_and_then_the_job_goes_on_as_it_is() -> None:
    fleet = Fleet(box("a"), box("b"), box("c"))
    fleet.look(job())
    fleet.tell("a", MODEL, state="failed", message="it does not fit")
    held = fleet.look(job())
    assert held.waits and "b" in fleet.orders and "a" in fleet.orders, "the failure would be forgotten"
    fleet.tell("b", MODEL, state="failed", message="it does not fit")
    held = fleet.look(job())
    assert held.waits == () and held.state.jobs == (job(),)
    assert held.notes["r-0"] == "its files could not be fetched beforehand on a: it does not fit"
    assert "c" not in fleet.orders
    shared = Fleet(caches={"a": "shared", "b": "shared"})
    shared.look(job())
    shared.tell("a", MODEL, state="failed", message="no such repository")
    assert shared.look(job()).state.jobs == (job(),), "the same cache was tried again"


@pytest.mark.parametrize("without", ["cache", "fetcher"])
def test_nobody_waits_where_no_box_can_fetch(without: str) -> None:
    fleet = Fleet(caches={"a": "", "b": ""} if without == "cache" else None)
    fleet.alive = frozenset() if without == "fetcher" else fleet.alive
    held = fleet.look(job())
    assert held.state.jobs == (job(),) and held.waits == () and fleet.ordered() == {}


def test_a_fetcher_that_dies_lets_its_jobs_go() -> None:
    fleet = Fleet(box("a"))
    assert fleet.look(job()).waits
    fleet.alive = frozenset()
    assert fleet.look(job()).state.jobs == (job(),)


def test_a_box_that_is_closed_is_not_ordered_from() -> None:
    fleet = Fleet(box("a", state=BoxState.PAUSED), box("b"))
    fleet.look(job())
    assert list(fleet.orders) == ["b"]


def test_after_the_limit_the_job_goes_on_as_it_is_while_the_fetch_does_too() -> None:
    fleet = Fleet()
    fleet.look(job(), limit_s=60)
    fleet.now = NOW + 61
    held = fleet.look(job(), limit_s=60)
    assert held.state.jobs == (job(),) and "takes longer than 1 min" in held.notes["r-0"]
    assert fleet.ordered() == {"a": {"lab/small", "lab/sums"}}


def test_what_is_said_of_files_is_added_to_the_plan_s_words() -> None:
    fleet = Fleet(box("a", 1))
    fleet.leases = (Lease("other-0", "bob", "a", ("a-0",), NOW - 10),)
    fleet.look(job())
    fleet.tell("a", MODEL, state="failed", message="no such repository")
    held = fleet.look(job())
    (wait,) = held.told(plan(held.state, NOW).waits)
    assert wait.reason.endswith("; its files could not be fetched beforehand on a: no such repository")


def model(**arguments: str) -> ResolvedModel:
    return ResolvedModel(label="m", name="m", version=None, adapter="qwen2_vl", model_args=arguments, gpus=1)


def task(**kwargs: Any) -> CatalogueTask:
    facts: dict[str, Any] = {"download": Derived(True, "", 1.0), "dataset": "lab/sums", "dataset_kwargs": kwargs}
    return CatalogueTask("t", Path("t.yaml"), "generate_until", tags=(), own=False, **facts)


def test_what_a_model_loads_is_read_from_its_arguments() -> None:
    found = fetch_items(model(pretrained="lab/small", revision="v2", dtype="float16"), [], ["HF_TOKEN"], "vllm")
    assert [(item.kind, item.name, item.revision, item.token, item.environment) for item in found] == [
        ("model", "lab/small", "v2", True, "vllm")
    ]
    for elsewhere in ("/models/here", "../here", "gpt-4o", "a/b/c", "https://x/y"):
        assert fetch_items(model(pretrained=elsewhere), [], [], None) == ()
    registered = model(path="x/y", tokenizer="lab/words").model_copy(
        update={"artifact_uri": "mlflow-artifacts:/1", "artifact_argument": "path", "version": "3"}
    )
    assert [(item.kind, item.name) for item in fetch_items(registered, [], [], None)] == [
        ("artifact", "m"),
        ("model", "lab/words"),
    ]


def test_what_a_task_loads_is_read_from_its_file() -> None:
    plain = fetch_items(model(), [task(token=True, trust_remote_code=True), task(token=True)], [], None)
    assert [(item.name, item.options) for item in plain] == [("lab/sums", {"token": True})], "code, or fetched twice"
    films = fetch_items(model(), [task(video=True, cache_dir="films")], [], None)
    assert [(item.whole, item.folder, item.options) for item in films] == [(True, "films", {}), (False, None, {})]
    assert fetch_items(model(), [task(load_from_disk=True)], [], None) == ()
    assert fetch_items(model(), [task(split="!function own.split")], [], None) == ()


def test_every_task_of_lmms_eval_is_read(catalogue: Catalogue) -> None:
    found = fetch_items(model(), catalogue.tasks.values(), [], None)
    assert len(found) > 500
    for item in found:
        assert FetchItem.model_validate_json(item.model_dump_json()).key == item.key
        assert item.name and not item.name.startswith(("/", "."))


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return read_catalogue([])
