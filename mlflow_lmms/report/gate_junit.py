"""A gate's verdict as JUnit XML, which continuous integration shows test by test. Pure.

Each task, the weighted mean and each group of documents is a test case. A failed one is a failure, an inconclusive
one an error: no runner counts it among those that passed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from xml.etree import ElementTree

#: What XML 1.0 cannot hold, escaped or not.
_NOT_XML = re.compile(r"[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

Case = tuple[str, str, Mapping[str, Any]]


def gate_junit(told: Mapping[str, Any]) -> str:
    """The XML of what `Client.gate` returns."""
    name = f"gate {told['candidate']['model']} against {told['baseline']['model']}"
    cases = list(_cases(told))
    lenient = told["lenient_slices"]
    kinds = [_kind(judged, lenient) for _, _, judged in cases]
    counts = {
        "tests": str(len(cases)),
        "failures": str(kinds.count("failure")),
        "errors": str(kinds.count("error")),
        "skipped": str(kinds.count("skipped")),
    }
    root = ElementTree.Element("testsuites", {"name": _xml(name), **counts})
    suite = ElementTree.SubElement(root, "testsuite", {"name": _xml(name), "timestamp": told["at"], **counts})
    properties = ElementTree.SubElement(suite, "properties")
    for key, value in _properties(told).items():
        ElementTree.SubElement(properties, "property", {"name": key, "value": _xml(value)})
    for (classname, case, judged), kind in zip(cases, kinds, strict=True):
        element = ElementTree.SubElement(suite, "testcase", {"classname": _xml(classname), "name": _xml(case)})
        if kind is not None:
            message = {"message": _xml(str(judged["reason"]))}
            type_ = {} if kind == "skipped" else {"type": str(judged["outcome"])}
            ElementTree.SubElement(element, kind, message | type_)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _cases(told: Mapping[str, Any]) -> Iterator[Case]:
    suite = told["suite"]["name"] if told["suite"] else "gate"
    yield f"{suite}.mean", "weighted mean", told["mean"]
    for task in told["tasks"]:
        yield f"{suite}.tasks", task["task"], task
        for group in task["groups"]:
            yield f"{suite}.groups.{task['task']}", f"{group['dimension']}={group['value']}", group


def _kind(judged: Mapping[str, Any], lenient: bool) -> str | None:
    if judged["outcome"] == "pass":
        return None
    if judged["outcome"] == "fail":
        return "failure"
    return "skipped" if judged["outcome"] is None or (lenient and "dimension" in judged) else "error"


def _properties(told: Mapping[str, Any]) -> dict[str, str]:
    suite = told["suite"] or {}
    found = {
        "outcome": told["outcome"],
        "candidate": told["candidate"]["model"],
        "baseline": told["baseline"]["model"],
        "suite": suite.get("name"),
        "suite_revision": suite.get("revision"),
        "judged_by": told["by"],
    }
    return {key: str(value) for key, value in found.items() if value is not None}


def _xml(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)
