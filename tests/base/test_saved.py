"""Files are written whole or not at all, whoever writes them; what is no file of torch.save is called what it is."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from equiformer_pytorch import EquiformerV3
from equiformer_pytorch.atoms import EquiformerPotential
from equiformer_pytorch.base.saved import plain_name, read_saved, weights_of, write_saved
from equiformer_pytorch.training import save_checkpoint
from tests.published_cases import V3

WRITERS = {
    "write_saved": lambda path: write_saved({"step": 1}, path),
    "checkpoint": lambda path: save_checkpoint(path, {"step": 1}),
    "potential": EquiformerPotential(species=[1], dim=4, depth=1).save,
    "published": EquiformerV3(**V3).save,
}


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("writer", WRITERS)
def test_an_error_in_the_middle_leaves_the_old_file(
    writer: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(contents, file) -> None:
        file.write(b"PK\x03\x04")
        raise error

    path = tmp_path / "file.pt"
    for before in (None, {"old": torch.ones(3)}):
        if before is not None:
            write_saved(before, path)
        with monkeypatch.context() as patch:
            patch.setattr(torch, "save", half)
            with pytest.raises(type(error)):
                WRITERS[writer](path)
        assert [found.name for found in tmp_path.iterdir()] == ([] if before is None else ["file.pt"])
    assert torch.equal(read_saved(path)["old"], torch.ones(3))
    WRITERS[writer](path)
    assert "old" not in read_saved(path)


def safetensors() -> bytes:
    head = json.dumps({"weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return struct.pack("<Q", len(head)) + head + bytes(4)


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("notes.txt", "no weights")
    return buffer.getvalue()


def whole(zipped: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save({"state_dict": {"a": torch.zeros(1000)}}, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "web page"),
        (b"\n  <HTML lang='en'>404</HTML>", "web page"),
        (b"\xef\xbb\xbf<?xml version='1.0'?><Error/>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "pointer of git-lfs"),
        (safetensors(), "safetensors"),
        (b'{"error": "not found"}', "begins with"),
        (archive(), "zip archive of something else"),
        (pickle.dumps([1, 2], protocol=2), "pickle"),
        *((whole()[:size], f"cut short after {size} bytes") for size in (10, 100, 1000, len(whole()) - 1)),
        *((whole(False)[:size], f"cut short after {size} bytes") for size in (10, len(whole(False)) - 1)),
    ],
)
def test_what_is_no_file_of_ours(contents: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(contents)
    with pytest.raises(ValueError, match=f"model.pt is not a file of torch.save, or not a whole one: it .*{words}"):
        read_saved(path)


@pytest.mark.unchecked
def test_what_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.pt"):
        read_saved(tmp_path / "none.pt")
    with pytest.raises(OSError, match=tmp_path.name):
        read_saved(tmp_path)
    with pytest.raises(TypeError, match="source must be a path or a mapping, got int"):
        read_saved(3)  # pyright: ignore[reportArgumentType]


def test_code_is_not_run_and_said_so(tmp_path: Path) -> None:
    torch.save(nn.Linear(1, 1), tmp_path / "module.pt")
    with pytest.raises(ValueError, match=r"module\.pt holds more than tensors.*would run code"):
        read_saved(tmp_path / "module.pt")
    torch.save([1], tmp_path / "list.pt")
    with pytest.raises(ValueError, match=r"list\.pt must hold a dict, got list"):
        read_saved(tmp_path / "list.pt")


def test_names_of_wrapped_weights() -> None:
    for name in ("module.a.b", "_orig_mod.module.a.b", "a._orig_mod.b", "a.module._orig_mod.b", "a.b"):
        assert plain_name(name) == "a.b"
    assert plain_name("modules.a_orig_mod.b") == "modules.a_orig_mod.b"
    state = {"n_averaged": torch.tensor(3), "module.a": torch.ones(1), "note": "text"}
    for contents in (state, {"state_dict": state, "config": {}}):
        assert weights_of(contents) == {"a": torch.ones(1)}


def test_files_without_weights() -> None:
    with pytest.raises(ValueError, match=r"checkpoint that a training run goes on from.*potential\.pt"):
        weights_of({"step": 3, "model": {"a": torch.ones(1)}, "ema": {}, "optimizer": {}, "about": {}})
    for contents in ({"epoch": 3}, {"state_dict": {}}, {"state_dict": [1]}, {"state_dict": None}):
        with pytest.raises(ValueError, match="there are no weights"):
            weights_of(contents)
