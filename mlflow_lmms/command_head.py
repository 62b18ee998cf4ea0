"""The part of a pasted command before lmms-eval's own options: shell text, variables, launcher. Pure.

Nothing is ever run or expanded: what only a shell can do is refused, by name.
"""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NoReturn

from mlflow_lmms.errors import InvalidRequestError

EXAMPLE = "lmms-eval --model qwen2_5_vl --model_args pretrained=Qwen/Qwen2.5-VL-3B-Instruct --tasks mme"
_LONGEST = 100_000
_OPERATORS = frozenset("();<>|&")
_LINE = "\n"
_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
_EXPANSION = re.compile(r"\$[({]?\w*|`")
_PYTHON = re.compile(r"python(3(\.\d+)?)?")
_MODULES = {"lmms_eval": "lmms_eval", "lmms_eval.__main__": "lmms_eval"} | {
    "accelerate.commands.launch": "accelerate",
    "torch.distributed.run": "torchrun",
    "torch.distributed.launch": "torchrun",
}
#: What only passes the command on.
_PASSED_OVER = frozenset({"time", "nohup", "env", "export"})
_SUBCOMMANDS = frozenset({"tasks", "models", "ui", "serve", "power", "version", "tui", "mcp"})
_ACCELERATE = """--main_process_port --main_process_ip --mixed_precision --config_file --num_machines --machine_rank
    --gpu_ids --num_cpu_threads_per_process --dynamo_backend --rdzv_backend""".split()  # noqa: SIM905 (a list to read)
_TORCHRUN = """--nnodes --node_rank --master_addr --master_port --rdzv_backend --rdzv_endpoint --rdzv_id
    --max_restarts""".split()  # noqa: SIM905


@dataclass(frozen=True)
class CommandHead:
    """What stands before lmms-eval's options, and these as they are.

    Attributes:
        variables: environment variables that the command sets.
        launcher: ``accelerate``, ``torchrun`` or nothing.
        processes: how many the launcher starts; None: it is not said.
        gpu_ids: accelerate's ``--gpu_ids``.
        left_out: options of the launcher that mean nothing here.
    """

    variables: dict[str, str]
    launcher: str
    processes: int | None
    gpu_ids: str | None
    left_out: tuple[str, ...]
    arguments: tuple[str, ...]


class StrictParser(argparse.ArgumentParser):
    """An argument parser that raises our error and knows only the options that were given."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog=prog, add_help=False, argument_default=argparse.SUPPRESS)

    def error(self, message: str) -> NoReturn:
        """Refuse what cannot be read.

        Raises:
            InvalidRequestError: always.
        """
        raise InvalidRequestError(f"{self.prog}: {message}")


def read_head(command: str | Sequence[str]) -> CommandHead:
    """Take a command apart up to lmms-eval's options.

    Args:
        command: as pasted, or as words that a shell has already cut.

    Raises:
        InvalidRequestError: it is no lmms-eval command, or takes a shell.
    """
    words = list(command) if not isinstance(command, str) else _words(command)
    variables: dict[str, str] = {}
    while words and _is_in_front(words[0]):
        if assigned := _ASSIGNMENT.fullmatch(words.pop(0)):
            variables[assigned[1]] = assigned[2]
    if words[:2] == ["uv", "run"]:
        words = words[2:]
    if not words:
        raise InvalidRequestError(f"expected a command such as `{EXAMPLE}`, got none")
    return _program(PurePosixPath(words[0]).name, words[1:], variables)


def _words(text: str) -> list[str]:
    """The words of one command; lines before it that only set variables become words in front."""
    if len(text) > _LONGEST:
        raise InvalidRequestError(f"the command has {len(text)} characters, more than {_LONGEST}")
    joined = re.sub(r"\\[ \t]*\r?\n", " ", text.replace("\r\n", "\n"))
    kept = "\n".join(line for line in joined.split("\n") if not line.lstrip().startswith("#"))
    lexer = shlex.shlex(kept, posix=True, punctuation_chars="".join(_OPERATORS) + _LINE)
    lexer.whitespace, lexer.commenters, lexer.whitespace_split = " \t\r", "", True
    try:
        words = list(lexer)
    except ValueError as error:
        raise InvalidRequestError(f"the command cannot be cut into words: {str(error).lower()}") from None
    lines = _lines(words)
    _refuse_operators(words)
    if any(not _only_assigns(line) for line in lines[:-1]):
        raise InvalidRequestError(
            f"expected one command, got {len(lines)} lines: paste them one by one, and end the lines of one command "
            "with a backslash"
        )
    found = [word for line in lines for word in line]
    _refuse_expansions(found)
    return found


def _lines(words: list[str]) -> list[list[str]]:
    lines: list[list[str]] = [[]]
    for word in words:
        if word and set(word) == {_LINE}:
            lines.append([])
        else:
            lines[-1].append(word)
    return [line for line in lines if line]


def _only_assigns(line: list[str]) -> bool:
    return all(_ASSIGNMENT.fullmatch(word) for word in line[line[0] == "export" :])


def _refuse_operators(words: Iterable[str]) -> None:
    for word in words:
        if word and set(word) <= _OPERATORS:
            raise InvalidRequestError(
                f"the command holds {word!r}, which is the shell's: paste the lmms-eval command alone, without "
                "pipes, redirections and further commands"
            )


def _refuse_expansions(words: Sequence[str]) -> None:
    """Refuse what a shell would fill in, but for variables in front: their values are not used."""
    in_front = True
    for word in words:
        in_front = in_front and _is_in_front(word)
        if (not in_front or word.startswith("CUDA_")) and (found := _EXPANSION.search(word)):
            raise InvalidRequestError(
                f"the command holds {found[0]!r}, which only a shell can fill in: put the value there"
            )


def _is_in_front(word: str) -> bool:
    return word in _PASSED_OVER or _ASSIGNMENT.fullmatch(word) is not None


def _program(name: str, rest: list[str], variables: dict[str, str]) -> CommandHead:
    if _PYTHON.fullmatch(name):
        return _python(rest, variables)
    if name == "accelerate" and rest[:1] == ["launch"]:
        return _launched("accelerate", rest[1:], variables)
    if name == "torchrun":
        return _launched("torchrun", rest, variables)
    if name in ("lmms-eval", "lmms_eval"):
        return _lmms_eval(rest, CommandHead(variables, "", None, None, (), ()))
    raise InvalidRequestError(
        f"expected lmms-eval, python -m lmms_eval, accelerate launch or torchrun, got {name[:80]!r}"
    )


def _python(rest: list[str], variables: dict[str, str]) -> CommandHead:
    while rest[:1] in (["-u"], ["-O"], ["-B"]):
        rest = rest[1:]
    if rest[:1] == ["-m"] and rest[1:2]:
        program = _MODULES.get(rest[1])
        if program in ("accelerate", "torchrun"):
            return _launched(program, rest[2:], variables)
        if program is not None:
            return _lmms_eval(rest[2:], CommandHead(variables, "", None, None, (), ()))
    shown = " ".join(rest[:2])[:80]
    raise InvalidRequestError(f"expected python -m lmms_eval, got python {shown}")


def _launched(launcher: str, rest: list[str], variables: dict[str, str]) -> CommandHead:
    """Read the options of accelerate or torchrun up to ``-m lmms_eval``."""
    parser = StrictParser("accelerate launch" if launcher == "accelerate" else "torchrun")
    parser.add_argument("-m", "--module", action="store_true")
    counts = ("--num_processes",) if launcher == "accelerate" else ("--nproc_per_node", "--nproc-per-node")
    parser.add_argument(*counts, dest="processes")
    for flag in ("--multi_gpu", "--same_network", "--standalone"):
        parser.add_argument(flag, action="store_true")
    for option in _ACCELERATE if launcher == "accelerate" else _TORCHRUN:
        parser.add_argument(*dict.fromkeys((option, f"--{option[2:].replace('_', '-')}")))
    parser.add_argument("program")
    parser.add_argument("rest", nargs=argparse.REMAINDER)
    found, unknown = parser.parse_known_args(rest)
    if unknown:
        raise InvalidRequestError(f"{parser.prog}: the option {unknown[0][:80]!r} is not known here: leave it out")
    given = vars(found)
    program = str(given["program"])
    if _MODULES.get(program) != "lmms_eval" and not program.endswith("lmms_eval/__main__.py"):
        raise InvalidRequestError(f"{parser.prog}: expected -m lmms_eval, got {program[:80]!r}")
    if any(str(given.get(name, "1")) not in ("1", "1:1") for name in ("num_machines", "nnodes")):
        raise InvalidRequestError(f"{parser.prog}: an evaluation runs on one box; it cannot span several machines")
    known = {"processes", "program", "rest", "module", "gpu_ids", "num_machines", "nnodes"}
    left_out = tuple(f"--{name}: the worker launches the processes itself" for name in given if name not in known)
    processes = _count(parser.prog, given.get("processes"))
    gpu_ids = given.get("gpu_ids") if given.get("gpu_ids") != "all" else None
    head = CommandHead(variables, launcher, processes, gpu_ids, left_out, ())
    return _lmms_eval(given.get("rest", []), head)


def _count(prog: str, text: str | None) -> int | None:
    if text is None or text in ("auto", "gpu"):
        return None
    if not text.isdecimal() or not text.isascii() or not 1 <= int(text[:9]) <= 64:
        raise InvalidRequestError(f"{prog}: expected from 1 to 64 processes, got {text[:80]!r}")
    return int(text)


def _lmms_eval(rest: list[str], head: CommandHead) -> CommandHead:
    if rest[:1] == ["eval"]:
        rest = rest[1:]
    elif rest and rest[0] in _SUBCOMMANDS:
        raise InvalidRequestError(f"`lmms-eval {rest[0]}` evaluates nothing; expected options such as `{EXAMPLE}`")
    return CommandHead(head.variables, head.launcher, head.processes, head.gpu_ids, head.left_out, tuple(rest))
