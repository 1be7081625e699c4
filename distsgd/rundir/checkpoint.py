"""Checkpoints: a crash at any moment leaves the older ones valid, and one is loaded only if every byte is correct.

A checkpoint is two files of one name, `00000120.npz` with the arrays and `00000120.json`, its manifest, which is
written last and holds the SHA-256 of the arrays' file and of itself. Without a valid manifest there is no checkpoint.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from distsgd.core.npz import read_arrays
from distsgd.engine.snapshot import UNKNOWN, EpochLoss, Snapshot
from distsgd.errors import CheckpointError
from distsgd.system.files import read_file, sync_folder, write_atomically


def save(
    folder: Path,
    snapshot: Snapshot,
    identity: Mapping[str, str],
    *,
    keep: int,
    mlflow_run_id: str | None = None,
) -> None:
    """Write `snapshot` as a checkpoint of the run that `identity` names, and remove all but the newest `keep`.

    The ID of the MLflow run, if known, is stored for reference only; nothing reads it. Raises CheckpointError if the
    checkpoint cannot be written; older checkpoints are then unchanged.
    """
    buffer = io.BytesIO()
    np.savez(buffer, parameters=snapshot.parameters, **snapshot.slots)  # type: ignore[arg-type]
    content = buffer.getvalue()
    manifest = {
        "step": snapshot.step,
        "skipped": snapshot.skipped,
        "epoch_loss": list(snapshot.epoch_loss) if all(map(math.isfinite, snapshot.epoch_loss)) else None,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "last_record": snapshot.last_record,
        "identity": dict(identity),
        "mlflow_run_id": mlflow_run_id,
    }
    manifest["manifest_sha256"] = _manifest_digest(manifest)
    name = f"{snapshot.step:08d}"
    try:
        if not folder.is_dir():
            folder.mkdir()
            sync_folder(folder.parent)
        write_atomically(folder / f"{name}.npz", content)
        write_atomically(folder / f"{name}.json", _encode(manifest))
        _remove_old(folder, snapshot.step, keep)
    except OSError as error:
        if not os.path.exists(folder / f"{name}.json"):  # False, too, if that cannot be found out
            _remove_arrays(folder / f"{name}.npz")
        raise CheckpointError(
            f"the checkpoint of step {snapshot.step} could not be written to {str(folder)!r}: {error.strerror}; "
            "older checkpoints there are as they were; make room and use --resume"
        ) from error


def load_newest(folder: Path, identity: Mapping[str, str]) -> tuple[Snapshot | None, list[str]]:
    """Return the newest valid checkpoint, or None, and a message about each newer one that was skipped.

    A checkpoint of another run, or of this one with different rows, counts as damaged. Additional entries in its
    identity are ignored, such as the configuration digest that earlier versions wrote.
    """
    problems: list[str] = []
    try:
        paths = [path for path in folder.iterdir() if path.suffix in (".json", ".npz")]
    except FileNotFoundError:
        return None, []
    except OSError as error:
        return None, [f"the checkpoints in {str(folder)!r} cannot be read: {error.strerror}"]
    if len(paths) == 1 and paths[0].suffix == ".npz":
        return None, []  # the first checkpoint was being written when the process was killed
    names = {path.stem for path in paths if path.stem.isdecimal()}
    for name in sorted(names, key=int, reverse=True):
        try:
            return _load(folder / f"{name}.json", folder / f"{name}.npz", identity), problems
        except (OSError, ValueError, KeyError, TypeError) as error:
            problems.append(f"the checkpoint {str(folder / name)!r} was skipped: {error}")
    return None, problems


def load_all(folder: Path, identity: Mapping[str, str]) -> tuple[dict[int, Snapshot], dict[str, str]]:
    """Return all valid checkpoints by step, in order, and of each other one, by its name, what is wrong with it.

    Arrays without a manifest are left out: they are no checkpoint. OSError if the folder cannot be read.
    """
    found, problems = dict[int, Snapshot](), dict[str, str]()
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".json")
    except FileNotFoundError:
        return {}, {}
    for path in paths:
        try:
            snapshot = _load(path, path.with_suffix(".npz"), identity)
            found[snapshot.step] = snapshot
        except (OSError, ValueError, KeyError, TypeError) as error:
            problems[path.stem] = str(error)
    return found, problems


def _remove_arrays(path: Path) -> None:
    """Remove arrays whose manifest could not be written; they would only take up room on a full disk."""
    with contextlib.suppress(OSError):
        path.unlink()


def _encode(manifest: Mapping[str, Any]) -> bytes:
    return json.dumps(manifest, indent=1).encode()


def _manifest_digest(manifest: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in manifest.items() if key != "manifest_sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _load(manifest_path: Path, arrays_path: Path, identity: Mapping[str, str]) -> Snapshot:
    """Return what one checkpoint holds; ValueError, KeyError, TypeError or OSError if it is not valid."""
    manifest = _read_manifest(manifest_path)
    step, skipped, last_record = manifest["step"], manifest["skipped"], manifest["last_record"]
    # The digest is correct, but that does not prove that this program wrote the manifest.
    if type(step) is int and manifest_path.stem != f"{step:08d}":
        raise ValueError(f"its manifest says step {step}, so it should have the name {step:08d}")
    if type(step) is not int or type(skipped) is not int or not 0 <= skipped <= step:
        raise ValueError(f"its manifest says step {step!r} and {skipped!r} skipped steps")
    if not isinstance(last_record, dict):
        raise ValueError("its manifest holds no journal record")
    if any(manifest["identity"][key] != value for key, value in identity.items()):
        raise ValueError("it belongs to another run")
    if not arrays_path.exists():
        raise ValueError("its arrays are missing")
    content = b"" if arrays_path.stat().st_size != manifest["bytes"] else read_file(arrays_path, max_bytes=2**62)
    if hashlib.sha256(content).hexdigest() != manifest["sha256"]:
        raise ValueError("its arrays are damaged")
    arrays = read_arrays(io.BytesIO(content))
    parameters = arrays.pop("parameters")
    for array in (parameters, *arrays.values()):
        if array.dtype != np.float32 or array.ndim != 1 or array.shape != parameters.shape:
            raise ValueError("its arrays are not vectors of float32 of one length")
    if not np.isfinite(parameters).all():
        raise ValueError("its parameters are not finite")
    return Snapshot(
        step=step,
        parameters=parameters,
        slots=arrays,
        skipped=skipped,
        epoch_loss=_epoch_loss(manifest.get("epoch_loss")),
        last_record=last_record,
    )


def _epoch_loss(stored: Any) -> EpochLoss:
    """Return the losses of the current epoch; UNKNOWN if there are none, as in checkpoints of version 0.1.0."""
    if stored is None:
        return UNKNOWN
    if not isinstance(stored, list) or len(stored) != 2 or not all(map(_is_finite, stored)):
        raise ValueError("its manifest holds no losses of the epoch")
    return EpochLoss(*stored)


def _is_finite(value: Any) -> bool:
    return type(value) is float and math.isfinite(value)


def _read_manifest(path: Path) -> dict[str, Any]:
    """Return a manifest; ValueError unless every byte is as it was written."""
    if not path.exists():
        raise ValueError("it has no manifest")
    content = read_file(path)
    try:
        manifest = json.loads(content)
    except (ValueError, RecursionError):
        raise ValueError("its manifest is damaged") from None
    # The digest covers the parsed content; a change such as `1E-5` for `1e-5` only shows in the text itself.
    if (
        not isinstance(manifest, dict)
        or manifest.get("manifest_sha256") != _manifest_digest(manifest)
        or content != _encode(manifest)
    ):
        raise ValueError("its manifest is damaged")
    return manifest


def _remove_old(folder: Path, step: int, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints up to `step`, manifests first, and leftovers of interrupted writes.

    Checkpoints of later steps are removed too: training went back to an earlier step because they are damaged.
    """
    names = sorted((path.stem for path in folder.glob("*.json") if path.stem.isdecimal()), key=int)
    kept = set([name for name in names if int(name) <= step][-keep:])
    for name in names:
        if name not in kept:
            (folder / f"{name}.json").unlink(missing_ok=True)
    for path in [*folder.glob("*.npz"), *folder.glob(".*.tmp")]:
        if path.stem not in kept:
            path.unlink(missing_ok=True)
