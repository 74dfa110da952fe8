from datasets import progress as module
from datasets.progress import progress


def run(monkeypatch, capsys, *, first=0.0, terminal=True) -> str:
    monkeypatch.setattr(module, "FIRST", first)
    monkeypatch.setattr(module, "EVERY", 0.0)
    monkeypatch.setattr(module, "LOGGED", 0.0)
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    assert list(progress("abc", "reading")) == ["a", "b", "c"]
    return capsys.readouterr().err


def test_on_a_terminal_a_line_counts(monkeypatch, capsys):
    shown = run(monkeypatch, capsys)
    assert shown == "".join(f"\rreading: {done} of 3" for done in (0, 1, 2, 3)) + "\n"


def test_in_a_file_there_is_a_line_every_few_seconds(monkeypatch, capsys):
    shown = run(monkeypatch, capsys, terminal=False)
    assert shown == "".join(f"reading: {done} of 3\n" for done in (0, 1, 2))


def test_what_is_done_at_once_is_not_told(monkeypatch, capsys):
    assert run(monkeypatch, capsys, first=60.0) == ""
