"""A small regression on `equiformer_pytorch.training`, for the tests: as a function, and as a program to be killed."""

from __future__ import annotations

import argparse
import os
import signal
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from equiformer_pytorch.training import Outcome, SampleStream, TrainSettings, load_checkpoint, train

ITEMS = list(torch.linspace(-1, 1, 10))


def draw(item: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    x = torch.randn(4, generator=generator)
    return x, x.sum() + item


def draw_rows(item: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Like `draw`, but of one to three rows each, which do not stack."""
    x = torch.randn(int(torch.randint(1, 4, (), generator=generator)), 4, generator=generator)
    return x, x.sum(1) + item


def join(samples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """All rows, one after the other."""
    return torch.cat([x for x, _ in samples]), torch.cat([y for _, y in samples])


def run(
    folder: Path,
    *,
    stop_at: int = 0,
    stop_signal: signal.Signals = signal.SIGKILL,
    dropout: float = 0.1,
    lr: float = 0.05,
    resume: bool = False,
    processes: int = 1,
    ragged: bool = False,
    **settings: Any,
) -> Outcome:
    """Trains in `folder`; sends itself `stop_signal` in the micro-batch `stop_at`, counted from 1."""
    values = {"steps": 12, "batch_size": 2, "accumulate": 1, "warmup": 2, "clip": 1.0, "ema": 0.9, "seed": 0}
    chosen = TrainSettings(**{**values, "validate_every": 4, "checkpoint_every": 5, **settings})
    torch.manual_seed(chosen.seed)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 1))
    calls = 0

    def loss_function(wrapped: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == stop_at:
            os.kill(os.getpid(), stop_signal)
        return (wrapped(batch[0])[:, 0] - batch[1]).square().mean()

    folder.mkdir(parents=True, exist_ok=True)
    return train(
        model=model,
        loss_function=loss_function,
        samples=SampleStream(
            ITEMS,
            draw_rows if ragged else draw,
            chosen.steps * chosen.batch_size * chosen.accumulate * processes,
            chosen.seed,
        ),
        optimizer=torch.optim.AdamW(model.parameters(), lr=lr),
        settings=chosen,
        accelerator=Accelerator(cpu=True, gradient_accumulation_steps=chosen.accumulate),
        folder=folder,
        about={"steps": chosen.steps},
        validate=lambda averaged: averaged(torch.ones(1, 4)).item(),
        resume=load_checkpoint(folder / "checkpoint.pt") if resume else None,
        collate_fn=join if ragged else None,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--stop-at", type=int, default=0)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--processes", type=int, default=1)
    run(**vars(parser.parse_args()))
