"""Settings for all tests: deterministic, no deadlines, default dtype and random numbers restored.

With CHECK_SHAPES=1 in the environment the annotations of the package are checked at every call, but in slow tests: they
call what the quick ones call.
"""

import sys
from collections.abc import Iterator

import hypothesis
import jaxtyping
import pytest
import torch

from tests import shapes

# Before anything imports the package.
if shapes.CHECK_SHAPES:
    jaxtyping.install_import_hook("equiformer_pytorch", f"{shapes.__name__}.checked")

hypothesis.settings.register_profile(
    "tests",
    deadline=None,
    derandomize=True,
    max_examples=10,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large],
)
hypothesis.settings.load_profile("tests")


@pytest.fixture(autouse=True)
def _unchecked(request: pytest.FixtureRequest) -> Iterator[None]:
    """Where a test is marked, annotations are not checked."""
    marked = any(request.node.get_closest_marker(name) for name in ("unchecked", "slow"))
    if not shapes.CHECK_SHAPES or not marked:
        yield
        return
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    """Every test starts from the same random numbers and must leave torch's global settings alone."""
    torch.manual_seed(0)
    dtype, grad = torch.get_default_dtype(), torch.is_grad_enabled()
    yield
    changed = (torch.get_default_dtype(), torch.is_grad_enabled()) != (dtype, grad)
    torch.set_default_dtype(dtype)
    torch.set_grad_enabled(grad)
    assert not changed, "the test left the default dtype or the gradient mode changed"


@pytest.fixture(autouse=True)
def _forget_accelerator() -> Iterator[None]:
    """accelerate has one state per process; a program would have it to itself."""
    yield
    state = sys.modules.get("accelerate.state")  # where it was used at all
    if state is not None:
        state.AcceleratorState._reset_state(reset_partial_state=True)
