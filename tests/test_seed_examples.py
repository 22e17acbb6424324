"""Every example of the seed document, as written there, without `.cuda()`."""

import pytest
import torch

from equiformer_pytorch import Equiformer

# ruff: noqa: B018, E501
# fmt: off


def test_first_model():
    model = Equiformer(
        num_tokens = 24,
        dim = (4, 4, 2),               # dimensions per type, ascending, length must match number of degrees (num_degrees)
        dim_head = (4, 4, 4),          # dimension per attention head
        heads = (2, 2, 2),             # number of attention heads
        num_linear_attn_heads = 0,     # number of global linear attention heads, can see all the neighbors
        num_degrees = 3,               # number of degrees
        depth = 4,                     # depth of equivariant transformer
        attend_self = True,            # attending to self or not
        reduce_dim_out = True,         # whether to reduce out to dimension of 1, say for predicting new coordinates for type 1 features
        l2_dist_attention = False      # set to False to try out MLP attention
    )

    feats = torch.randint(0, 24, (1, 128))
    coors = torch.randn(1, 128, 3)
    mask  = torch.ones(1, 128).bool()

    out = model(feats, coors, mask) # (1, 128)

    out.type0 # invariant type 0    - (1, 128)
    out.type1 # equivariant type 1  - (1, 128, 3)

    assert out.type0.shape == (1, 128)
    assert out.type1.shape == (1, 128, 3)
    type0, type1 = out
    assert type0 is out.type0
    assert type1 is out.type1
    assert out.type0.isfinite().all()
    assert out.type1.isfinite().all()


@pytest.mark.slow
def test_reversible():
    model = Equiformer(
        num_tokens = 24,
        dim = (4, 4, 2),
        dim_head = (4, 4, 4),
        heads = (2, 2, 2),
        num_degrees = 3,
        depth = 48,          # depth of 48 - just to show that it runs - in reality, seems to be quite unstable at higher depths, so architecture stil needs more work
        reversible = True,   # just set this to True to use https://arxiv.org/abs/1707.04585
    )

    feats = torch.randint(0, 24, (1, 128))
    coors = torch.randn(1, 128, 3)
    mask  = torch.ones(1, 128).bool()

    out = model(feats, coors, mask)

    out.type0.sum().backward()

    assert out.type0.shape == (1, 128, 4)
    assert out.type1.shape == (1, 128, 4, 3)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_edges():
    model = Equiformer(
        num_tokens = 28,
        dim = 64,
        num_edge_tokens = 4,       # number of edge type, say 4 bond types
        edge_dim = 16,             # dimension of edge embedding
        depth = 2,
        input_degrees = 1,
        num_degrees = 3,
        reduce_dim_out = True
    )

    atoms = torch.randint(0, 28, (2, 32))
    bonds = torch.randint(0, 4, (2, 32, 32))
    coors = torch.randn(2, 32, 3)
    mask  = torch.ones(2, 32).bool()

    out = model(atoms, coors, mask, edges = bonds)

    out.type0 # (2, 32)
    out.type1 # (2, 32, 3)

    assert out.type0.shape == (2, 32)
    assert out.type1.shape == (2, 32, 3)
    assert out.type1.isfinite().all()


def test_adjacency():
    model = Equiformer(
        dim = 32,
        heads = 8,
        depth = 1,
        dim_head = 64,
        num_degrees = 2,
        valid_radius = 10,
        reduce_dim_out = True,
        attend_sparse_neighbors = True,  # this must be set to true, in which case it will assert that you pass in the adjacency matrix
        num_neighbors = 0,               # if you set this to 0, it will only consider the connected neighbors as defined by the adjacency matrix. but if you set a value greater than 0, it will continue to fetch the closest points up to this many, excluding the ones already specified by the adjacency matrix
        num_adj_degrees_embed = 2,       # this will derive the second degree connections and embed it correctly
        max_sparse_neighbors = 8         # you can cap the number of neighbors, sampled from within your sparse set of neighbors as defined by the adjacency matrix, if specified
    )

    feats = torch.randn(1, 128, 32)
    coors = torch.randn(1, 128, 3)
    mask  = torch.ones(1, 128).bool()

    # placeholder adjacency matrix
    # naively assuming the sequence is one long chain (128, 128)

    i = torch.arange(128)
    adj_mat = (i[:, None] <= (i[None, :] + 1)) & (i[:, None] >= (i[None, :] - 1))

    out = model(feats, coors, mask, adj_mat = adj_mat)

    out.type0 # (1, 128)
    out.type1 # (1, 128, 3)

    assert out.type0.shape == (1, 128)
    assert out.type1.shape == (1, 128, 3)
    with pytest.raises(ValueError, match="adj_mat"):
        model(feats, coors, mask)
