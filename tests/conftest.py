"""The command line, called in this process."""

import sys
import warnings
from pathlib import Path

import pytest
import tomli_w

from fedwave import cli

from .helpers import JOB


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, with ``job.toml``; no hub, and a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDWAVE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    Path("job.toml").write_text(tomli_w.dumps(JOB))
    return tmp_path


@pytest.fixture
def fedwave_(here, monkeypatch, capsys):
    """``fedwave_(*arguments)`` -> exit code, stdout, stderr; warnings become notes, as they do for a user."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["fedwave", *map(str, arguments)])
        capsys.readouterr()  # what came before is not the command's
        with warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            with pytest.raises(SystemExit) as end:
                cli.main()
        out, err = capsys.readouterr()
        return end.value.code or 0, out, err

    return call
