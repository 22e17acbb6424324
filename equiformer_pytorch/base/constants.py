"""Constants of a module that no cast may round, and that come back from the meta device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from equiformer_pytorch.base.tracing import transforming


class ExactConstants(nn.Module):
    """A module whose buffers are constants: they follow it between devices, but keep their dtype in every cast.

    Half-precision constants would cost accuracy for good: casting back does not restore them. On the meta device
    tensors have no values; constants are made anew when the module leaves it, as by ``to_empty(device=…)``, or when it
    is given weights by ``load_state_dict(…, assign=True)``: on torch's default device then, where a part has none.
    """

    _builders: dict[str, tuple[Callable[..., Tensor], tuple[Any, ...]]]
    """How constants are made; modules that 1.2 pickled have none."""

    def constant(self, name: str, build: Callable[..., Tensor], *given: Any) -> None:
        """Register the buffer ``build(*given)``, on torch's default device, which is not part of the state dict.

        Args:
            name: of the buffer.
            build: a function of a module, so that pickle finds it. It runs on the CPU, whatever the default device.
            given: its arguments, plain values.
        """
        self.__dict__.setdefault("_builders", {})[name] = (build, given)
        self.register_buffer(name, self._built(name, torch.get_default_device()), persistent=False)

    def _built(self, name: str, device: torch.device) -> Tensor:
        build, given = self._builders[name]
        with torch.device("cpu"):
            return build(*given).to(device)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True):
        exact = dict(self.named_buffers())
        super()._apply(fn, recurse)
        for name, moved in list(self.named_buffers()):
            path, _, own_name = name.rpartition(".")
            owner = self.get_submodule(path)
            if not exact[name].is_meta or moved.is_meta:
                setattr(owner, own_name, exact[name].to(moved.device))
            elif own_name in owner.__dict__.get("_builders", {}):
                if owner is self:  # others have seen to it themselves
                    setattr(self, own_name, self._built(own_name, moved.device))
            elif own_name in owner._non_persistent_buffers_set:
                raise RuntimeError(f"{name} has no values on the meta device, and nothing says how to make them anew")
        self.__dict__.pop("_casts", None)
        return self

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        if not local_metadata.get("assign_to_params_buffers", False):
            return
        own = (x.device for x in state_dict.values() if isinstance(x, Tensor))
        device = next(own, torch.get_default_device())
        for name in self.__dict__.get("_builders", {}):
            if self.get_buffer(name).is_meta and device.type != "meta":
                setattr(self, name, self._built(name, device))

    def cast(self, name: str, dtype: torch.dtype) -> Tensor:
        """A constant in the dtype of a computation. It is converted once and kept, until the module moves; what is
        made while something traces, or in inference mode, is not: it would not do afterwards."""
        constant = self.get_buffer(name)
        if constant.dtype == dtype:
            return constant
        if torch.compiler.is_compiling() or transforming() or torch.is_inference_mode_enabled():
            return constant.to(dtype)
        casts: dict[tuple[str, torch.dtype], Tensor] = self.__dict__.setdefault("_casts", {})
        if (name, dtype) not in casts or casts[name, dtype].device != constant.device:
            casts[name, dtype] = constant.to(dtype)
        return casts[name, dtype]

    def __getstate__(self) -> dict:
        """Without what was converted."""
        return {name: value for name, value in self.__dict__.items() if name != "_casts"}
