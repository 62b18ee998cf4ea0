"""The whole of it: a run with a GPU lease whose model comes from the registry and whose data set comes from a Hub."""

from __future__ import annotations

import re
from pathlib import Path

import lmms_digits
from fake_hub import Repository, serve
from fake_nvml import FakeDriver
from lmms_digits.train import train
from mlflow import MlflowClient
from running_stack import RunningStack, until

from mlflow_lmms.registry import ModelDescription, register_model


def _task(folder: Path) -> Path:
    """The digits task with its data set on the Hub."""
    folder.mkdir()
    sound = lmms_digits.tasks_folder() / "digits_vqa.yaml"
    text = re.sub(r"dataset_kwargs:\n(?:[ #].*\n)+", "", sound.read_text())
    text = text.replace("dataset_path: parquet", "dataset_path: lab/digits").replace("digits_vqa", "hub_digits")
    (folder / "hub_digits.yaml").write_text(text)
    (folder / "scoring.py").write_text((sound.parent / "scoring.py").read_text())
    return folder


def test_files_are_fetched_before_the_run_has_its_gpu(tmp_path: Path) -> None:
    data = lmms_digits.tasks_folder() / "data"
    names = [f"digits-{split}.parquet" for split in ("train", "test")]
    card = "---\nconfigs:\n- config_name: default\n  data_files:\n"
    card += (
        "".join(f"  - split: {split}\n    path: digits-{split}.parquet\n" for split in ("train", "test")) + "---\n"
    )
    files = {"README.md": card.encode(), **{name: (data / name).read_bytes() for name in names}}
    driver = FakeDriver(tmp_path / "nvml")
    driver.tell()
    with serve({}, {"lab/digits": Repository(files)}) as hub:
        hub.stuck = {"digits-test.parquet"}
        environ = {**driver.environ, **hub.environ(tmp_path / "home"), "MLFLOW_LMMS_DISK_RESERVE_GB": "0"}
        with RunningStack(tmp_path, task_folders=[_task(tmp_path / "tasks")], environ=environ) as stack:
            folder = train(tmp_path / "models")["k-nearest-neighbours"]
            register_model(MlflowClient(stack.url), "knn", ModelDescription(adapter="digits", files=folder, gpus=1))
            run_id = stack.submit("knn", tasks=["hub_digits"], limit=20)
            until(hub.reached.is_set, within_s=120, what="the data set to be asked for")
            assert stack.client.evaluation(run_id)["state"] == "queued"
            assert not stack.runners(), "it has a GPU while its files are fetched"
            kept = list((stack.data / "models").iterdir())
            assert len(kept) == 1, "the registered model was not fetched first"
            hub.stuck = set()
            hub.go_on.set()
            evaluation = stack.wait(run_id)
            assert evaluation["state"] == "finished", evaluation
            assert [hub.downloads[name] for name in names] == [1, 1]
            assert list((stack.data / "models").iterdir()) == kept
