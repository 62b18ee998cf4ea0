"""lmms-eval's argument strings: taken apart and put together without loss, and never with a secret in them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_lmms.errors import InvalidRequestError
from mlflow_lmms.model_arguments import (
    format_model_arguments,
    parse_model_arguments,
    refuse_remote_code,
    refuse_secrets,
)

TEXT = st.text(max_size=12) | st.sampled_from(["=", "a=b", "https://x/y?z=1", "4", "名"])
TOKEN = "hf_" + "a" * 34
SECRET_NAMES = (
    *("API-KEY", "openai_key", "key", "access_key", "aws_secret_access_key", "secret_key", "hf-token", "authtoken"),
    *("bearer", "authorization", "private_key", "pwd", "passphrase", "azure_openai_key", "api_keys"),
)


@given(st.dictionaries(TEXT, TEXT, max_size=4))
def test_what_is_put_together_is_taken_apart_again_or_refused(arguments: dict[str, str]) -> None:
    try:
        text = format_model_arguments(arguments)
    except InvalidRequestError:
        return
    assert parse_model_arguments(text) == arguments


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,12}", fullmatch=True), st.from_regex(r"[\w./:=\-]*", fullmatch=True)))
def test_ordinary_arguments_are_never_refused(arguments: dict[str, str]) -> None:
    assert parse_model_arguments(format_model_arguments(arguments)) == arguments


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("", {}),
        ("pretrained=a/b,dtype=float16", {"pretrained": "a/b", "dtype": "float16"}),
        (" a=1 , b=2 ,", {"a": "1", "b": "2"}),
        ("base_url=http://h/?q=1", {"base_url": "http://h/?q=1"}),
        ("a=", {"a": ""}),
        ("body={'a':1,'b':[1,2]},c='x,y'", {"body": "{'a':1,'b':[1,2]}", "c": "'x,y'"}),
    ],
)
def test_a_string_is_taken_apart(text: str, arguments: dict[str, str]) -> None:
    assert parse_model_arguments(text) == arguments


@pytest.mark.parametrize(
    ("text", "reason"), [("pretrained", "NAME=VALUE"), ("=x", "NAME=VALUE"), ("a=1,a=2", "given twice")]
)
def test_a_malformed_string_is_refused_with_the_piece(text: str, reason: str) -> None:
    with pytest.raises(InvalidRequestError, match=reason):
        parse_model_arguments(text)


@pytest.mark.parametrize(
    "arguments",
    [
        {"a": "1,2"},
        {"a": "1\n2"},
        {"a": "1\r2"},
        {"a,b": "1"},
        {"a=b": "1"},
        {"": "1"},
        {"a": "1 "},
        {"a": "[1"},
        {"a": "it's"},
        {"a": "1]"},
    ],
)
def test_what_lmms_eval_would_take_differently_is_refused(arguments: dict[str, str]) -> None:
    with pytest.raises(InvalidRequestError, match="lmms-eval cannot take"):
        format_model_arguments(arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"api_key": "x"},
        {"API_KEY": "x"},
        {"azure_apikey": "x"},
        {"hf_token": "x"},
        {"token": "x"},
        {"client_secret": "x"},
        {"password": "x"},
        {"pretrained": TOKEN},
        {"base_url": "https://user:sk-" + "b" * 30 + "@host/"},
        {"key": "AKIA" + "A" * 16},
        *({name: "abcdef0123456789"} for name in SECRET_NAMES),
        {"base_url": "https://user:pa55word@host/v1"},
        {"headers": "Bearer abcdefghijklmnop"},
        {"client": '{"api_key":"abcdef0123456789"}'},
        {"pretrained": "ghp_" + "c" * 36},
        {"pretrained": "AIza" + "d" * 35},
    ],
)
def test_a_secret_is_refused_without_being_repeated(arguments: dict[str, str]) -> None:
    with pytest.raises(InvalidRequestError, match="secrets=NAME") as caught:
        refuse_secrets(arguments)
    for value in arguments.values():
        assert len(value) < 10 or value not in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [
        {"pretrained": "org/hf_model"},
        {"hf_token": "true"},
        {"token": "None"},
        {"pad_token": "<pad>"},
        {"max_new_tokens": "16"},
        {"video_key": "frames", "input_key": "image"},
        {"reasoner_api_key_env": "OPENAI_API_KEY"},
        {"base_url": "https://host:8000/v1"},
        {"pretrained": "/data/hf_checkpoints/sk-small"},
        {"tokenizer": "x"},
        {"pretrained": "org/risk-" + "b" * 30},
    ],
)
def test_what_is_no_secret_passes(arguments: dict[str, str]) -> None:
    refuse_secrets(arguments)


@pytest.mark.parametrize("value", ["True", "true", "1", "yes"])
def test_remote_code_is_refused_with_who_may_allow_it(value: str) -> None:
    with pytest.raises(InvalidRequestError, match="MLFLOW_LMMS_TRUST_REMOTE_CODE"):
        refuse_remote_code({"trust_remote_code": value})


@pytest.mark.parametrize("value", ["False", "false", "0", "no", ""])
def test_remote_code_may_be_switched_off(value: str) -> None:
    refuse_remote_code({"trust_remote_code": value, "pretrained": "a"})


@pytest.mark.lmms_eval
@given(st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), TEXT | st.text("a,[]{}'\"\\= ", max_size=8)))
def test_lmms_eval_reads_the_same(arguments: dict[str, str]) -> None:
    from lmms_eval.utils import handle_arg_string, simple_parse_args_string

    try:
        text = format_model_arguments(arguments)
    except InvalidRequestError:
        return
    assert simple_parse_args_string(text) == {name: handle_arg_string(value) for name, value in arguments.items()}
