"""Reports of the close suite: a table for terminals, JUnit XML, and a page that is opened in a real browser."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import fromstring

import pytest

from roket_trio.testing._close_suite.cases import CASES
from roket_trio.testing._reports.html import render_html
from roket_trio.testing._reports.junit import render_junit
from roket_trio.testing._reports.table import Matrix, render_failures, render_matrix, render_summary
from roket_trio.testing._results.case_result import CaseResult, ResultEvent

EVENTS = (
    ResultEvent(1, "program", -1, "note", 0, "started: process 1"),
    ResultEvent(5, "peer", 0, "connected", 0, "accepted 127.0.0.1:5"),
    ResultEvent(9, "peer", 0, "received", 1000),
    ResultEvent(12, "peer", 0, "sent", 500),
    ResultEvent(20, "peer", 0, "fin seen"),
    ResultEvent(21, "peer", 0, "fin sent"),
    ResultEvent(30, "peer", 0, "rst seen"),
    ResultEvent(31, "peer", 0, "note", 0, "the program still holds its socket after 2.4 s, which is rather long"),
)


def result(case: str = "close/1.1", target: str = "it", **changes: Any) -> CaseResult:
    found: dict[str, Any] = {
        "level": "MUST",
        "role": "client",
        "data": "complete",
        "close": "clean",
        "verdict": "pass",
        "bytes": 5,
        "ms": 1234,
        "events": EVENTS,
        "observer": "peer, sock_diag",
        "repro": f"roket check --client '{target} {{host}} {{port}}' --case {case}",
        "reason": "the peer saw FIN",
        **changes,
    }
    return CaseResult(case=case, target=target, **found)


def failed(case: str = "close/1.1", target: str = "it", **changes: Any) -> CaseResult:
    wrong = {"verdict": "fail", "close": "leaked", "reason": "the program still holds fd 3", **changes}
    return result(case, target, **wrong)


SOME = [
    result("close/1.1", "one"),
    failed("close/1.2", "one", data="truncated", close="reset"),
    result("close/1.1", "two", verdict="unsupported", data="not-observed", close="not-observed"),
    result("close/1.2", "two", verdict="not-observed", close="not-observed"),
    failed("close/2.3", "two", level="SHOULD", data="not-observed", close="clean"),
]


# --- the table -------------------------------------------------------------------------------------------------------


def test_the_table_has_cases_and_programs() -> None:
    assert render_matrix(Matrix.of(SOME)).splitlines() == [
        "                  one               two",
        "close/1.1 MUST    ok                -",
        "close/1.2 MUST    truncated, reset  ?",
        "close/2.3 SHOULD                    FAIL",
    ]


def test_columns_that_do_not_fit_go_below() -> None:
    lines = render_matrix(Matrix.of(SOME), width=38).split("\n\n")
    assert [part.split()[0] for part in lines] == ["one", "two"]
    assert all(len(line) <= 38 for part in lines for line in part.splitlines())
    assert "one" in render_matrix(Matrix.of(SOME), width=1)


def test_a_program_in_both_roles_has_two_columns() -> None:
    matrix = Matrix.of([result(role="client"), result(role="server")])
    assert matrix.heads() == ["it (client)", "it (server)"]


def test_the_last_result_of_a_place_counts() -> None:
    matrix = Matrix.of([failed(), result()])
    assert [one.verdict for one in matrix.results] == ["pass"]


def test_colors_do_not_change_the_width() -> None:
    plain = render_matrix(Matrix.of(SOME))
    colored = render_matrix(Matrix.of(SOME), color=True)
    assert "\x1b[31;1m" in colored
    assert "\n".join(line.rstrip() for line in re.sub(r"\x1b\[[\d;]*m", "", colored).splitlines()) == plain


def test_the_time_for_a_table_grows_with_it_and_no_faster() -> None:
    def cpu_seconds(count: int) -> float:
        matrix = Matrix.of([result(f"test_{number}", events=()) for number in range(count)])
        started = time.process_time()
        render_matrix(matrix)
        return time.process_time() - started

    assert cpu_seconds(8000) < 25 * min(cpu_seconds(1000) for _ in range(3))  # 8 is linear, 64 the square


def test_failures_are_told_with_their_reason_and_how_to_repeat_them() -> None:
    told = render_failures([*SOME, failed(level="INFO", target="info")])
    assert told.splitlines()[:3] == [
        "close/1.2 MUST one (client): truncated, reset",
        "    the program still holds fd 3",
        "    roket check --client 'one {host} {port}' --case close/1.2",
    ]
    assert "info" not in told
    assert render_failures([result()]) == ""


def test_the_summary_counts() -> None:
    assert render_summary(SOME) == "1 passed, 1 MUST failed, 1 SHOULD failed, 1 unsupported, 1 not observed"
    assert render_matrix(Matrix.of([])) == "no results"


# --- JUnit -----------------------------------------------------------------------------------------------------------


def test_junit_has_a_suite_for_each_program_and_a_test_for_each_case() -> None:
    root = fromstring(render_junit(SOME).encode())
    suites = {suite.get("name"): suite for suite in root}
    assert set(suites) == {"one (client)", "two (client)"}
    assert {name: suites["one (client)"].get(name) for name in ("tests", "failures", "skipped", "errors")} == {
        "tests": "2",
        "failures": "1",
        "skipped": "0",
        "errors": "0",
    }
    assert suites["two (client)"].get("skipped") == "3"
    failure = root.find(".//testcase[@name='close/1.2']/failure")
    assert failure is not None
    assert failure.get("message", "").startswith("MUST: data truncated, close reset: ")
    assert "roket check --client" in (failure.text or "")
    assert "20 ms  peer  fin seen" in (failure.text or "")


def test_a_should_counts_with_strict() -> None:
    root = fromstring(render_junit(SOME, strict=True).encode())
    assert root.find(".//testcase[@name='close/2.3']/failure") is not None
    assert root.find(".//testcase[@name='close/1.1']/failure") is None


def test_junit_survives_what_programs_say() -> None:
    nasty = "]]> <&\"' \x00\x1b\ud800 ü"
    root = fromstring(render_junit([failed(target=nasty, reason=nasty)]).encode("utf-8"))
    assert root.find(".//failure") is not None


# --- the page --------------------------------------------------------------------------------------------------------


def embedded(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="results">(.*?)</script>', page, re.DOTALL)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_the_page_needs_nothing_else() -> None:
    page = render_html(SOME)
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!data:)""", page)
    assert "import(" not in page
    assert "fetch(" not in page
    data = embedded(page)
    assert data["schema"] == "roket.close/1"
    assert data["columns"] == ["one", "two"]
    assert [case["address"] for case in data["cases"]] == ["close/1.1", "close/1.2", "close/2.3"]
    assert data["cases"][0]["why"] == CASES[0].why
    assert len(data["results"]) == len(SOME)


def test_what_programs_say_stays_data() -> None:
    nasty = "</script><script>document.title='owned'</script><!-- <img src=x onerror=alert(1)>"
    page = render_html([failed(target=nasty, reason=nasty, repro=nasty)], title=nasty)
    assert page.count("<script") == 2
    assert embedded(page)["results"][0]["target"] == nasty


class Browser:
    """A session of chromedriver's: plain HTTP, https://www.w3.org/TR/webdriver2."""

    def __init__(self, port: int, width: int, height: int) -> None:
        self._base = f"http://127.0.0.1:{port}/session"
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--window-size={width},{height}"]
        options = {"goog:chromeOptions": {"args": arguments}, "goog:loggingPrefs": {"browser": "ALL"}}
        self._base += "/" + self._call("POST", "", {"capabilities": {"alwaysMatch": options}})["sessionId"]

    def _call(self, method: str, path: str, body: object = None) -> Any:
        data = None if method == "GET" else json.dumps(body or {}).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self._base + path, data=data, method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def open(self, path: Path) -> None:
        self._call("POST", "/url", {"url": path.as_uri()})

    def run(self, script: str, *arguments: object) -> Any:
        return self._call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def click(self, selector: str) -> None:
        (element,) = self._call("POST", "/element", {"using": "css selector", "value": selector}).values()
        self._call("POST", f"/element/{element}/click")

    def press(self, key: str) -> None:
        actions = [{"type": kind, "value": key} for kind in ("keyDown", "keyUp")]
        self._call("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def errors(self) -> list[str]:
        return [entry["message"] for entry in self._call("POST", "/se/log", {"type": "browser"})]

    def screenshot(self) -> bytes:
        return base64.b64decode(self._call("GET", "/screenshot"))

    def quit(self) -> None:
        self._call("DELETE", "")


@pytest.fixture(scope="module")
def driver() -> Iterator[int]:
    """The port of a chromedriver."""
    path = shutil.which("chromedriver")
    if path is None or shutil.which("chromium") is None:
        if os.environ.get("CI") or os.environ.get("ROKET_CI"):
            pytest.fail("chromium and chromium-driver are missing")
        pytest.skip("chromium and chromium-driver are not installed")
    process = subprocess.Popen([path, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(r"started successfully on port (\d+)", line):
                break
        else:
            pytest.fail("chromedriver did not start")
        yield int(found[1])
    finally:
        process.terminate()
        process.wait(20)
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture(params=[(1500, 1000), (400, 850)], ids=["wide", "narrow"])
def browser(driver: int, request: pytest.FixtureRequest) -> Iterator[Browser]:
    browser = Browser(driver, *request.param)
    try:
        yield browser
    finally:
        browser.quit()


def test_the_page_in_a_browser(browser: Browser, tmp_path: Path) -> None:
    nasty = "<b id=owned>evil</b></script>"
    results = [
        *SOME,
        failed("close/2.3", nasty, reason=nasty),
        result("close/3.5", "one", level="INFO", data="truncated"),
    ]
    results += [result(one.address, "all") for one in CASES]
    page = tmp_path / "report.html"
    page.write_text(render_html(results, title="A title"), encoding="utf-8")
    browser.open(page)
    assert browser.run("return document.title") == "A title"
    assert browser.run("return document.querySelectorAll('.cell').length") == len(results)
    assert browser.run("return document.getElementById('owned')") is None
    # The page itself never scrolls sideways: the table does, in its own frame.
    assert browser.run("return document.documentElement.scrollWidth <= window.innerWidth")

    browser.click(".cell.fail[data-target=one]")
    assert browser.run("return document.getElementById('detail').open")
    told = browser.run("return document.getElementById('detail').innerText")
    assert "close/1.2" in told
    assert "the program still holds fd 3" in told
    assert "roket check --client 'one {host} {port}' --case close/1.2" in told
    arrows = browser.run(
        "return Array.from(document.querySelectorAll('dialog svg path'), (path) => path.className.baseVal)"
    )
    assert arrows == ["data", "data", "fin", "fin", "rst"]
    assert browser.run("return document.querySelector('dialog svg').getBoundingClientRect().width >= 500")
    assert browser.run("return document.querySelector('dialog').getBoundingClientRect().width <= window.innerWidth")
    browser.click("dialog .close")
    assert not browser.run("return document.getElementById('detail').open")

    opened = browser.run(
        "let count = 0; for (const cell of document.querySelectorAll('.cell')) { cell.click();"
        " count += document.getElementById('detail').open; document.getElementById('detail').close(); } return count"
    )
    assert opened == len(results)
    browser.click("#only")
    assert browser.run("return document.querySelectorAll('tbody tr:not(.group)').length") == 2
    assert len(browser.screenshot()) > 10_000
    assert browser.errors() == []


def test_odd_results_open_as_well(browser: Browser, tmp_path: Path) -> None:
    odd = [ResultEvent(1, "peer", 0, name, 5) for name in ("constructor", "__proto__", "toString", "")]
    page = tmp_path / "report.html"
    page.write_text(render_html([failed(repro="", events=tuple(odd), reason="", close="clean")]), encoding="utf-8")
    browser.open(page)
    browser.click(".cell")
    told = browser.run("return document.getElementById('detail').innerText")
    assert "null" not in told
    assert "undefined" not in told
    assert browser.run("return document.querySelectorAll('dialog svg circle').length") == len(odd)
    assert browser.errors() == []


def test_many_programs_with_long_names_keep_to_the_page(browser: Browser, tmp_path: Path) -> None:
    names = [f"{'a-very-long-name' * (number % 5 + 1)}-{number}" for number in range(30)]
    page = tmp_path / "report.html"
    tests = f"tests/test_it.py::test_{'long' * 60}"
    page.write_text(
        render_html([failed(case, name) for name in names for case in ("close/1.1", tests)]), encoding="utf-8"
    )
    browser.open(page)
    assert browser.run("return document.documentElement.scrollWidth <= window.innerWidth")
    # The column of the cases stays in place, and leaves space for others.
    share = "document.querySelector('th.case').getBoundingClientRect().width / window.innerWidth"
    assert browser.run(f"return {share}") < 0.6
    assert (
        browser.run("return Math.max(...Array.from(document.querySelectorAll('thead th'), (th) => th.offsetWidth))")
        < 500
    )
    browser.run("document.querySelector('.scroll').scrollLeft = 1e6")
    assert (
        browser.run("return document.querySelector('tbody tr:not(.group) th.case').getBoundingClientRect().left") < 100
    )
    browser.run("document.querySelector('.cell').focus()")
    browser.press("\ue007")  # Enter
    assert browser.run("return document.getElementById('detail').open")
    assert browser.run("return document.querySelector('dialog').getBoundingClientRect().width <= window.innerWidth")
    assert browser.run(
        "return document.querySelector('dialog > div').scrollWidth <= document.querySelector('dialog').clientWidth"
    )
    browser.press("\ue00c")  # Escape
    assert not browser.run("return document.getElementById('detail').open")
    assert browser.run("return document.activeElement.className").startswith("cell")
    assert browser.errors() == []


def test_the_page_opens_with_no_results(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(render_html([]), encoding="utf-8")
    browser.open(page)
    assert browser.run("return document.querySelectorAll('.cell').length") == 0
    assert browser.errors() == []


def test_the_template_is_in_the_package() -> None:
    code = "from importlib.resources import files\n"
    code += "print(len(files('roket_trio.testing._reports').joinpath('report.html').read_text()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert int(done.stdout) > 5000
