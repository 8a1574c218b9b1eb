"""What a user sees of long work: a bar with an estimate of the end on a terminal, lines elsewhere, nothing if quiet."""

import re
from types import SimpleNamespace

import pytest

from fedwave import console
from fedwave.models import sources

RECORD = {"round": 0, "sim_time_s": 1.0, "uplink_bits": 8.0, "downlink_bits": 8.0, "energy_j": 1.0, "delivered": 1,
          "clients": 1}  # fmt: skip


@pytest.fixture
def terminal(monkeypatch):
    """Call it: from then on the errors' stream passes for a terminal."""

    def pretend():
        monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.setenv("COLUMNS", "100")

    return pretend


def rendered(bar):
    """What stands in the bar now, without control codes."""
    with bar.progress.console.capture() as shown:
        bar.progress.console.print(bar.progress.get_renderable())
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.get())


def test_rounds_have_an_estimate_of_the_end(terminal):
    """Four of ten rounds at 100 s each are done: 600 s are left. Rounds may be longer than any averaging window."""
    terminal()
    now = [1000.0]
    with console._bar(quiet=False) as bar:
        bar.progress.get_time = lambda: now[0]
        bar.part("preparing")
        assert "preparing" in rendered(bar)
        bar.rounds(10, 0, {"loss": 1.0})
        for number in range(4):
            now[0] += 100.0
            bar.round_done(RECORD | {"round": number})
        text = rendered(bar)
    assert "preparing" not in text
    assert "rounds" in text and "4/10" in text
    assert "0:10:00" in text  # the rest; what has passed is the 0:06:40 beside it
    assert "0:06:40" in text


def test_a_resumed_run_counts_what_is_done(terminal):
    terminal()
    with console._bar(quiet=False) as bar:
        bar.rounds(10, 7, {})
        assert "7/10" in rendered(bar)


def test_preparation_shows_how_far_it_is(terminal):
    terminal()
    with console._bar(quiet=False) as bar:
        update = bar.part("preparing")
        update(64, 256)
        assert "64/256" in rendered(bar)
        update(256, 256)
        assert "256/256" not in rendered(bar)


@pytest.mark.parametrize("quiet", [False, True])
def test_no_terminal_no_bar(capsys, quiet):
    with console._bar(quiet=quiet) as bar:
        bar.part("preparing")(1, 2)
        bar.rounds(2, 0, {"loss": 1.0})
        bar.round_done(RECORD)
    out, err = capsys.readouterr()
    assert err == "" and "\x1b" not in out and "\r" not in out
    assert len(out.splitlines()) == (0 if quiet else 4)


def test_a_whole_run_on_a_terminal(fedwave_, terminal):
    """Lines of rounds come above the bar; nothing is left of the bar at the end."""
    terminal()
    code, out, err = fedwave_("run", "job.toml")
    assert code == 0
    assert "run folder: " in out
    assert "\x1b" in err
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", err)
    assert "rounds" in plain and re.search(r"\r\s+3  .*3/3\n", plain)
    assert "\x1b" not in fedwave_("run", "job.toml", "--quiet")[2]


@pytest.mark.parametrize("quiet", [False, True])
def test_fetching_a_model_says_each_step(capsys, monkeypatch, quiet, tmp_path):
    def obtain(name, progress):
        progress(f"downloading {name} (93 MB)")
        return tmp_path

    monkeypatch.setattr(sources, "_obtain", obtain)
    monkeypatch.setenv("FEDWAVE_CACHE", str(tmp_path))
    assert console.fetch("nobody/nothing", quiet=quiet) == tmp_path
    assert capsys.readouterr().out == ("" if quiet else "downloading nobody/nothing (93 MB)\n")


def test_a_run_that_must_fetch_says_so(capsys, monkeypatch, tmp_path):
    """``resolve`` is told by whoever waits for it, and by nobody else."""
    monkeypatch.setenv("FEDWAVE_CACHE", str(tmp_path))
    monkeypatch.setattr(sources, "_snapshot", lambda *_, **__: None)
    monkeypatch.setattr(sources, "_obtain", lambda name, progress: progress(f"downloading {name}") or tmp_path)
    run = SimpleNamespace(
        setting=SimpleNamespace(rounds=1), world=SimpleNamespace(round=1), initial={}, folder=None, finished=True,
        stream=lambda: iter(()), report=lambda: None, result=lambda: "done",
        session=SimpleNamespace(learner=SimpleNamespace(dropped=0), choice=SimpleNamespace(why="one client at a time")),
    )  # fmt: skip

    def make(progress):
        sources.resolve("nobody/nothing")
        return run

    assert console.play(make, quiet=False) == "done"
    assert "downloading nobody/nothing\n" in capsys.readouterr().out
    sources.resolve("nobody/nothing")
    assert capsys.readouterr() == ("", "")
