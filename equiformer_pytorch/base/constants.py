"""Constants of a module that no cast may round."""

from collections.abc import Callable

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
        return self
