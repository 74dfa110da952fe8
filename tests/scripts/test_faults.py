"""The table of faults says what pytest saw, and nothing better."""

import ast
from pathlib import Path

import pytest

from scripts import faults
from scripts.faults import FAULTS, Seen, as_page, make_rows, read_results, summary

pytest_plugins = ["pytester"]
ROOT = Path(__file__).parents[2]
CASE = """<testcase classname="tests.test_a" name="{name}" time="1.0">
<properties>{numbers}</properties>{outcome}</testcase>"""


def results(path: Path, *cases: tuple[str, list[int], str]) -> Path:
    texts = [
        CASE.format(
            name=name,
            numbers="".join(f'<property name="fault" value="{n}" />' for n in numbers),
            outcome=outcome,
        )
        for name, numbers, outcome in cases
    ]
    path.write_text(f"<testsuites><testsuite>{''.join(texts)}</testsuite></testsuites>")
    return path


def marked(path: Path) -> list[int]:
    """Numbers of all marks in a file."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    return [
        argument.value
        for call in calls
        if isinstance(call.func, ast.Attribute) and call.func.attr == "fault"
        for argument in call.args
    ]


def test_every_fault_has_a_test_and_every_mark_a_fault():
    numbers = {number for path in (ROOT / "tests").rglob("test_*.py") for number in marked(path)}
    assert sorted(numbers) == list(FAULTS) == list(range(1, 57))


def test_a_mark_reaches_the_results(pytester):
    hook = (ROOT / "tests/conftest.py").read_text().partition("def pytest_itemcollected")
    pytester.makeconftest("import pytest\n" + "".join(hook[1:]))
    pytester.makepyfile("import pytest\n@pytest.mark.fault(3, 7)\ndef test_it_is_told(): pass")
    pytester.runpytest_inprocess("--junitxml=r.xml", "-o", "junit_family=xunit1", "-p", "no:xdist")
    seen = read_results(pytester.path / "r.xml")
    assert {number: found.verdict for number, found in seen.items()} == {3: "pass", 7: "pass"}
    assert seen[3].names == {"it is told": 1}


@pytest.mark.parametrize(
    ("outcomes", "verdict"),
    [
        (["", ""], "pass"),
        (["", "<failure/>"], "FAIL"),
        (["", "<error/>"], "FAIL"),
        (["<skipped/>", ""], "incomplete"),
        (["<skipped/>", "<failure/>"], "FAIL"),
    ],
)
def test_a_fault_passes_only_where_every_test_of_it_does(outcomes, verdict, tmp_path):
    cases = [(f"test_it[{place}]", [5], outcome) for place, outcome in enumerate(outcomes)]
    seen = read_results(results(tmp_path / "r.xml", *cases))
    assert seen[5].verdict == verdict
    rows = list(make_rows(seen, whole=True))
    assert rows[4][0] == "05"
    assert rows[4][3:] == ("it (2)", verdict)
    assert rows[5][4] == "no test"
    assert Seen().verdict == "no test"


def test_a_part_leaves_out_what_it_has_not_run(tmp_path):
    seen = read_results(results(tmp_path / "r.xml", ("test_a", [2, 9], ""), ("test_b", [2], "")))
    rows = list(make_rows(seen, whole=False))
    assert [row[0] for row in rows] == ["02", "09"]
    tests = "(tests, by fault: 3 passed, 0 failed, 0 skipped)"
    assert summary(seen) == f"2 of 56 faults pass {tests}"
    page = as_page(rows, summary(seen), "in 1.0 minutes", "quick")
    assert "| 02 | a bit of a checkpoint flipped | the hash tells; as 1 | a; b | pass |" in page
    assert "--part quick" in page


@pytest.mark.parametrize(("bad", "code"), [(0, 0), (7, 1)])
def test_a_failure_is_in_the_exit_code(bad, code, monkeypatch, tmp_path, capsys):
    tested = list(FAULTS)

    def run_tests(part, jobs, path):
        results(path, *((f"test_{n}", [n], "<failure/>" if n == bad else "") for n in tested))
        return code

    monkeypatch.setattr(faults, "run_tests", run_tests)
    page = tmp_path / "page.md"
    assert faults.main(["--page", str(page)]) == code
    assert page.read_text().count("| pass |") == len(tested) - code
    assert f"{len(tested) - code} of 56 faults pass" in capsys.readouterr().out


def test_results_of_several_runs_are_read_and_the_last_counts(tmp_path, capsys):
    first = results(tmp_path / "1.xml", ("test_a", [2], "<failure/>"), ("test_b", [3], ""))
    second = results(tmp_path / "2.xml", ("test_a", [2], ""))
    assert {n: s.verdict for n, s in read_results(first, second).items()} == {2: "pass", 3: "pass"}
    assert read_results(second, first)[2].verdict == "FAIL"
    assert faults.main(["--part", "slow", "--results", str(first), str(second)]) == 0
    assert faults.main(["--part", "slow", "--results", str(second), str(first)]) == 1
    assert faults.main(["--results", str(tmp_path / "none.xml")]) == 1
    assert "error: cannot read the results of pytest" in capsys.readouterr().err
