"""The results of the close suite as JUnit XML, for CI servers. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from ..._public import public
from .._results.case_result import CaseResult

# Characters that XML 1.0 cannot have (https://www.w3.org/TR/xml/#charsets).
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@public
def render_junit(results: Iterable[CaseResult], *, strict: bool = False) -> str:
    """Make a document with a suite for each program and a test for each case.

    A failed MUST is a failure. A failed SHOULD is a failure with ``strict``, and otherwise skipped, with its reason.
    What is unsupported or was not observed is skipped.
    """
    root = Element("testsuites", name="roket.close")
    suites: dict[tuple[str, str], Element] = {}
    for result in results:
        key = (result.target, result.role)
        if key not in suites:
            suites[key] = SubElement(root, "testsuite", name=_valid(f"{result.target} ({result.role})"))
        _add(suites[key], result, strict)
    for suite in suites.values():
        tests = suite.findall("testcase")
        suite.set("tests", str(len(tests)))
        suite.set("failures", str(sum(test.find("failure") is not None for test in tests)))
        suite.set("skipped", str(sum(test.find("skipped") is not None for test in tests)))
        suite.set("errors", "0")
        suite.set("time", f"{sum(float(test.get('time', '0')) for test in tests):.3f}")
    indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + tostring(root, encoding="unicode") + "\n"


def _add(suite: Element, result: CaseResult, strict: bool) -> None:
    test = SubElement(
        suite,
        "testcase",
        classname=_valid(f"{result.target}.{result.role}"),
        name=_valid(result.case),
        time=f"{result.ms / 1000:.3f}",
    )
    message = _valid(f"{result.level}: data {result.data}, close {result.close}: {result.reason}")
    if result.verdict == "fail" and result.level in (("MUST", "SHOULD") if strict else ("MUST",)):
        failure = SubElement(test, "failure", message=message, type=_valid(f"{result.data}, {result.close}"))
        failure.text = _valid("\n".join([result.reason, f"repeat: {result.repro}", "", *_event_lines(result)]))
    elif result.verdict == "fail":
        SubElement(test, "skipped", message=f"failed, but no MUST: {message}")
    elif result.verdict != "pass":
        SubElement(test, "skipped", message=message)


def _event_lines(result: CaseResult) -> list[str]:
    return [
        f"{event.ms:6} ms  {event.who}  {event.what}"
        + (f" {event.bytes:,} bytes" if event.bytes else "")
        + (f": {event.detail}" if event.detail else "")
        for event in result.events
    ]


def _valid(text: str) -> str:
    return _NOT_IN_XML.sub("�", text)
