"""Constants of a module that no cast may round."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class ExactConstants(nn.Module):
    """A module whose buffers are constants: they follow it between devices, but keep their dtype in every cast.

    Half-precision constants would cost accuracy for good: casting back does not restore them.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "ExactConstants":
        exact = dict(self.named_buffers())
        super()._apply(fn, recurse)
        for name, moved in list(self.named_buffers()):
            owner, _, own_name = name.rpartition(".")
            setattr(self.get_submodule(owner), own_name, exact[name].to(moved.device))
        self.__dict__.pop("_casts", None)
        return self

    def cast(self, name: str, dtype: torch.dtype) -> Tensor:
        """A constant in the dtype of a computation. It is converted once and kept, until the module moves; what is
        made while something traces, or in inference mode, is not: it would not do afterwards."""
        constant = self.get_buffer(name)
        if constant.dtype == dtype:
            return constant
        traced = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
        if traced or torch.is_inference_mode_enabled():
            return constant.to(dtype)
        casts: dict[tuple[str, torch.dtype], Tensor] = self.__dict__.setdefault("_casts", {})
        if (name, dtype) not in casts or casts[name, dtype].device != constant.device:
            casts[name, dtype] = constant.to(dtype)
        return casts[name, dtype]

    def __getstate__(self) -> dict:
        """Without what was converted."""
        return {name: value for name, value in self.__dict__.items() if name != "_casts"}
