"""What is planned, listed or merely imported does not load the heavy packages."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import fedwave

SOURCE = str(Path(fedwave.__file__).parents[1])
HEAVY = ("ray", "torch", "transformers", "peft", "sklearn", "matplotlib", "pandas")
PROGRAM = """
import json, sys
import fedwave
fedwave.__version__, fedwave.BadInput
if len(sys.argv) > 1:
    from fedwave import cli
    try:
        cli.main()
    except SystemExit as error:
        assert error.code in (0, 3), error.code
print()
print(json.dumps([name for name in sys.modules if "." not in name]))
"""


@pytest.mark.parametrize(
    "command", [[], ["--help"], ["list", "methods"], ["list", "models"], ["plan", "job.toml", "--json"]]
)
def test_light(tmp_path, command):
    (tmp_path / "job.toml").write_text(
        '[task]\nname = "causal-lm"\nmodel = "llama-3.2-3b"\n[engine]\nmax_clients = 1\n'
    )
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *command], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": SOURCE},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout.splitlines()[-1])
    assert not set(HEAVY) & set(loaded)
    if not command:
        assert not {"numpy", "pydantic", "typer", "rich"} & set(loaded)
