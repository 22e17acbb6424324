"""Checks for tests of models and layers: that they are equivariant, and that gradients and forces are right.

``assert_equivariant(model, {"inputs": features, "coors": coordinates})`` turns, shifts and reorders a structure and
compares what comes out; ``assert_gradients(model, {...})`` compares with finite differences. Arguments and results of
this package's models are known by name; of a layer or a model of your own say how others behave, see :class:`Role`.
"""

from equiformer_pytorch.testing.equivariance import assert_equivariant, equivariance_errors
from equiformer_pytorch.testing.gradients import assert_gradients
from equiformer_pytorch.testing.roles import Role

__all__ = ["Role", "assert_equivariant", "assert_gradients", "equivariance_errors"]
