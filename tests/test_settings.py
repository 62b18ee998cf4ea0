"""Settings: where each value comes from, what is refused, and no password shown."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from mlflow_lmms.errors import ConfigurationError
from mlflow_lmms.settings import Settings, SettingValue, mask_password


def explained(environ: dict[str, str], name: str) -> SettingValue:
    return next(value for value in Settings.explain(environ) if value.name == name)


def config(tmp_path: Path, text: str) -> dict[str, str]:
    file = tmp_path / "lmms.toml"
    file.write_text(text, encoding="utf-8")
    return {"MLFLOW_LMMS_CONFIG": str(file)}


def test_the_defaults_need_nothing() -> None:
    settings = Settings.load({})
    assert settings.auth == "none"
    assert settings.server_url == "http://127.0.0.1:5000"
    assert settings.box


def test_the_environment_wins_over_the_file_and_an_option_over_both(tmp_path: Path) -> None:
    environ = config(tmp_path, 'experiment = "file"\nbox = "file"\nlease_ttl_s = 20\ncpu_slots = 2\n')
    environ |= {"MLFLOW_LMMS_EXPERIMENT": "environment", "MLFLOW_LMMS_BOX": "environment"}
    settings = Settings.load(environ, experiment="option", cpu_slots=None)
    assert (settings.experiment, settings.box, settings.lease_ttl_s) == ("option", "environment", 20)
    assert settings.cpu_slots == 2


def test_each_value_is_shown_with_its_source(tmp_path: Path) -> None:
    environ = config(tmp_path, "cpu_slots = 3\n") | {"MLFLOW_LMMS_BOX": "gpu7"}
    assert explained(environ, "box")[1:3] == ("gpu7", "environment (MLFLOW_LMMS_BOX)")
    assert explained(environ, "cpu_slots")[1:3] == ("3", f"file ({environ['MLFLOW_LMMS_CONFIG']})")
    assert explained(environ, "auth")[1:3] == ("none", "default")
    assert explained(environ, "database_url").value == ""
    assert explained(environ, "sidebar").value == "true"


def test_every_setting_is_explained() -> None:
    shown = Settings.explain({})
    assert [value.name for value in shown] == list(Settings.model_fields)
    assert all(value.meaning for value in shown)


def test_mlflows_own_variable_names_the_server() -> None:
    assert Settings.load({"MLFLOW_TRACKING_URI": "http://a:1"}).server_url == "http://a:1"
    both = {"MLFLOW_TRACKING_URI": "http://a:1", "MLFLOW_LMMS_SERVER_URL": "http://b:2"}
    assert Settings.load(both).server_url == "http://b:2"
    assert Settings.load({"MLFLOW_TRACKING_URI": "sqlite:///x.db"}).server_url == "http://127.0.0.1:5000"


def test_lists_and_mappings_are_written_with_commas() -> None:
    settings = Settings.load(
        {
            "MLFLOW_LMMS_TASK_FOLDERS": "/a, /b,",
            "MLFLOW_LMMS_ENVIRONMENTS": "vllm=/opt/vllm/bin/python,hf=/opt/hf/bin/python",
            "MLFLOW_LMMS_SECRETS_OFFERED": "A,B",
            "MLFLOW_LMMS_SIDEBAR": "false",
        }
    )
    assert settings.task_folders == (Path("/a"), Path("/b"))
    assert settings.environments == {"vllm": "/opt/vllm/bin/python", "hf": "/opt/hf/bin/python"}
    assert settings.secrets_offered == ("A", "B")
    assert settings.sidebar is False


def test_an_empty_variable_is_as_good_as_none() -> None:
    assert Settings.load({"MLFLOW_LMMS_EXPERIMENT": ""}).experiment == "lmms-eval"


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"MLFLOW_LMMS_COLOUR": "red"}, "no setting is called MLFLOW_LMMS_COLOUR"),
        ({"MLFLOW_LMMS_CPU_SLOTS": "many"}, "setting cpu_slots from environment (MLFLOW_LMMS_CPU_SLOTS)"),
        ({"MLFLOW_LMMS_AUTH": "ldap"}, "'none' or 'basic'"),
        ({"MLFLOW_LMMS_LEASE_TTL_S": "0"}, "got '0'"),
        ({"MLFLOW_LMMS_CONFIG": "/nowhere/lmms.toml"}, "cannot be read as TOML"),
    ],
)
def test_a_wrong_value_is_refused_with_its_source(environ: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(environ)
    assert words in caught.value.message


@pytest.mark.parametrize(("text", "words"), [("cpu_slots =", "TOML"), ("colour = 1", "colour"), ("box = 3", "box")])
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Settings.load(config(tmp_path, text))


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "lmms.toml"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match="TOML"):
        Settings.load({"MLFLOW_LMMS_CONFIG": str(file)})


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:geheim@h:6379/0", "redis://:***@h:6379/0"),
        ("postgresql://u:geheim@h/db", "postgresql://u:***@h/db"),
        ("unix:///tmp/s.sock?db=0&password=geheim", "unix:///tmp/s.sock?db=0&password=***"),
        (
            "postgresql://h/db?user=u&password=geheim&sslmode=require",
            "postgresql://h/db?user=u&password=***&sslmode=require",
        ),
        ("redis://h:6379/0", "redis://h:6379/0"),
        ("plain text", "plain text"),
        ("https://[::1", "https://[::1"),
    ],
)
def test_a_password_is_masked(url: str, shown: str) -> None:
    assert mask_password(url) == shown


def test_explain_shows_no_password() -> None:
    environ = {
        "MLFLOW_LMMS_REDIS_URL": "redis://:geheim@h",
        "MLFLOW_LMMS_DATABASE_URL": "postgresql://u:geheim@h/db",
        "MLFLOW_TRACKING_URI": "https://u:geheim@h",
    }
    assert "geheim" not in repr(Settings.explain(environ))


def test_the_embedded_queue_server_has_an_address_that_redis_understands(tmp_path: Path) -> None:
    settings = Settings.load({"MLFLOW_LMMS_DATA_FOLDER": str(tmp_path / "a folder %")})
    connection = redis.Redis.from_url(settings.redis_address)
    assert connection.connection_pool.connection_kwargs["path"] == str(settings.redis_socket)
    assert Settings.load({"MLFLOW_LMMS_REDIS_URL": "redis://h"}).redis_address == "redis://h"
