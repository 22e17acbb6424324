"""Every tolerance of the tests, by name. Relative ones are shares of the largest entry of what is compared with."""

import torch

# Promise 1: structures, padding and far points do not see each other (absolute, float64).
ISOLATION = 1e-12
# Promise 1 in other dtypes, where sums over tables of another width round differently.
ISOLATION_BY_DTYPE = {torch.float64: ISOLATION, torch.float32: 1e-4, torch.bfloat16: 0.2, torch.float16: 2e-2}

# Promise 3: relative equivariance error of a whole model.
EQUIVARIANCE = {torch.float32: 1e-5, torch.float64: 1e-11}

# Promise 3: what symmetry forces to zero, as a share of the largest feature: some 90 units in the last place.
SYMMETRIC_ZERO = {torch.float32: 1e-5, torch.float64: 2e-14}

# Promise 2: two ways to the same gradient, relative.
SAME_GRADIENT = {torch.float32: 1e-5, torch.float64: 1e-10}

# Promise 2: reversible gradients under bfloat16 autocast, against the plain recurrence under the same autocast.
SAME_GRADIENT_AUTOCAST = 3e-2

# Two ways to the same value, relative (float64).
SAME_VALUE = 1e-12

# so3: against e3nn, absolute on entries of order one; the quadrature and constants are of float64.
ORACLE = 1e-11
ROTATION = {torch.float32: 5e-6, torch.float64: 1e-12}

# Promise 6: relative error of low-precision models beside float64; a few units in the last place of each layer.
LOW_PRECISION = {torch.bfloat16: 0.15, torch.float16: 0.02}
# Geometry of low-precision models is that of float32.
GEOMETRY = 1e-6

# The published models beside the official code, relative, float64; met to about 1e-13.
PUBLISHED = 1e-9
# Their equivariance where the activation is exact or the grid fine, relative, float64.
PUBLISHED_EQUIVARIANCE = 1e-6

# Beside release 1.2.0, relative, float64; and six steps of training in single precision.
GOLDEN = 1e-10
GOLDEN_TRAINING = 1e-4
