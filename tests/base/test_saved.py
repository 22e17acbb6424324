"""Files are written whole or not at all, whoever writes them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from equiformer_pytorch import EquiformerV3
from equiformer_pytorch.atoms import EquiformerPotential
from equiformer_pytorch.base.saved import read_saved, write_saved
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
