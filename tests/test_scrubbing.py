"""Secrets in text: known values in every spelling, shapes of keys, and ordinary text that must stay."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_lmms.scrubbing import MASK, Scrubber


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("token is hf_abcdefghijklmnopqrst", "hf_abcdefghijklmnopqrst"),
        ("using sk-proj-Ab12_cd34-ef56", "sk-proj-Ab12_cd34-ef56"),
        ("model_args: api_key=zzz123,base_url=http://x", "zzz123"),
        ('{"api_key": "q1w2e3"}', "q1w2e3"),
        (json.dumps(json.dumps({"OPENAI_API_KEY": "q1w2e3"})), "q1w2e3"),
        ("Authorization: Bearer abcdef.ghijkl-mn", "abcdef.ghijkl-mn"),
        ("redis://worker:s3cret@queue:6379/0", "s3cret"),
        ("AWS AKIAIOSFODNN7EXAMPLE used", "AKIAIOSFODNN7EXAMPLE"),
        ("password: hunter2", "hunter2"),
    ],
)
def test_shapes_of_secrets_are_masked(text: str, secret: str) -> None:
    clean = Scrubber().scrub(text)
    assert secret not in clean
    assert MASK in clean


@pytest.mark.parametrize(
    "text",
    [
        "max_new_tokens=16, tokens: 5, pad_token=0",
        "Loading weights from task-of-the-day at https://example.org/a:b",
        "Tokenizer sk-learn 1.5; accuracy 0.91",
        "the key of the dictionary is 'image'",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    assert Scrubber(["", "ab"]).scrub(text) == text


def test_the_name_beside_a_secret_stays_readable() -> None:
    assert Scrubber().scrub("api_key=zzz123,base_url=http://x") == f"api_key={MASK},base_url=http://x"


def test_a_known_value_is_masked_in_every_spelling() -> None:
    secret = 'pa"ss/wörd+1'
    for printed in (secret, json.dumps(secret), repr(secret), quote(secret, safe="")):
        assert MASK in Scrubber([secret]).scrub(f"got {printed} here")
        assert "wörd" not in Scrubber([secret]).scrub(f"got {printed} here")


def test_each_line_of_a_value_counts() -> None:
    scrubber = Scrubber(["-----BEGIN KEY-----\nMIIEabc123\n-----END KEY-----"])
    assert scrubber.scrub("line: MIIEabc123") == f"line: {MASK}"


def test_a_longer_secret_that_begins_like_a_shorter_one_leaves_no_rest() -> None:
    assert Scrubber(["value", "value-of-more"]).scrub("x value-of-more y") == f"x {MASK} y"


@given(st.text(min_size=4, max_size=40).filter(lambda s: len(s.strip()) >= 4 and len(s.splitlines()) == 1))
def test_no_known_value_survives(secret: str) -> None:
    clean = Scrubber([secret]).scrub(f"before {secret.strip()} after")
    assert secret.strip() not in clean.replace(MASK, "")


def test_a_long_text_without_spaces_takes_no_longer_than_its_length() -> None:
    text = "a" * 1_000_000 + "-api_key=abcdefgh"
    assert Scrubber().scrub(text) == "a" * 1_000_000 + "-api_key=***"  # quadratic, this would take a day
