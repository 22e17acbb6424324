"""eSCN-MD: the network of eSEN (Fu et al. 2025, arXiv 2502.12147) and UMA (Wood et al. 2025, arXiv 2506.23971)."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from equiformer_pytorch.base.arguments import as_config, takes
from equiformer_pytorch.base.tracing import lasting_tensors
from equiformer_pytorch.published.checkpoint import compare_weights
from equiformer_pytorch.published.escn_md.arguments import DEFAULT_HEADS, ESCNMDArguments
from equiformer_pytorch.published.escn_md.backbone import Backbone
from equiformer_pytorch.published.escn_md.experts import Experts
from equiformer_pytorch.published.escn_md.files import FromFairchem
from equiformer_pytorch.published.escn_md.heads import build_head
from equiformer_pytorch.published.escn_md.merging import Kind, merged_config, merged_weights, one_row
from equiformer_pytorch.published.escn_md.outputs import Outputs


class ESCNMD(FromFairchem):
    r"""Energies of structures, forces and stress as their gradient or by heads of their own: eSCN without attention.

    In the frame of each edge, turned to y, messages of both ends go through two SO(2) maps with a gate between them,
    are faded out by an envelope u and summed; a feed-forward network of each atom follows:

    .. math:: x_i ← x_i + \sum_j u_{ij}\,D_{ij}^T\,\mathrm{SO2}_2\,\mathrm{act}\,\mathrm{SO2}_1\bigl(w_{ij} ⊙
        D_{ij}[y_j, y_i]\bigr), \quad y = \mathrm{norm}\,x + s, \qquad x_i ← x_i + \mathrm{FF}(\mathrm{norm}\,x_i).

    s is a vector of the structure: its charge, its spin multiplicity, the dataset whose level of theory is wanted.
    With ``num_experts`` the SO(2) matrices of each structure are mixed of those of experts, by its composition and s
    (UMA); :meth:`merged` mixes them once.

    Arguments have the names, defaults and meanings of fairchem 2.24 (``fairchem.core.models.uma``), and parameters the
    names and shapes of its files: an entry ``backbone`` of a published configuration, without ``model``, can be pasted
    in. Where we differ: docs/published_models.md. See :meth:`forward` for the call, :meth:`from_checkpoint` for files.

    Args:
        max_num_elements: one more than the highest atomic number.
        sphere_channels, hidden_channels, edge_channels: widths of features, of messages and feed-forward networks, of
            radial networks.
        lmax, mmax: highest degree, and highest order in the frames of edges.
        grid_resolution: latitudes and longitudes of the grids of sampled functions, even.
        max_neighbors: at most so many neighbours of an atom, the nearest, where edges are looked for; as published,
            with the first one beyond and all that are hardly farther, see
            :func:`~equiformer_pytorch.atoms.radius_graph`.
        cutoff: Å.
        distance_function: "gaussian".
        num_distance_basis: Gaussians of the distance.
        direct_forces, direct_stress: by heads of their own, not as gradients of the energy.
        regress_forces, regress_stress: what :meth:`forward` gives where nobody says. A gradient can always be had.
        num_layers: depth.
        norm_type: "layer_norm", "layer_norm_sh" or "rms_norm_sh".
        act_type: "gate", or "s2": sampled on a sphere, which depends on how frames roll.
        ff_type: "spectral" or "grid": of the feed-forward networks.
        chg_spin_emb_type: "pos_emb", "lin_emb" or "rand_emb"; cs_emb_grad: whether these embeddings are trained.
        use_dataset_embedding: have a vector for each dataset; dataset_list, dataset_mapping: which there are, or as
            which each is treated (one of the two); dataset_emb_grad: whether they are trained.
        charge_balanced_channels, spin_balanced_channels: invariants that add up to charge, or spin − 1, after each
            layer.
        num_experts: how many experts SO(2) maps have (0: one matrix), in all layers or in `layers_moe`.
        moe_dropout, composition_dropout: of what coefficients are made of, in training.
        use_composition_embedding: coefficients see the composition.
        moe_expert_coefficient_norm: "softmax" or "pnorm", whose coefficients depend on the batch.
        moe_type: "so2". moe_single: False.
        heads: configurations of fairchem's heads and wrappers by name; one MLP_EFS_Head by default.
        pass_through_head_outputs: whether fairchem's names of outputs are those of the heads' own.
        model_id: the generation; the mean over atoms of "UMA-S-1.2" counts one too many.
        task: (not of fairchem) the dataset that structures are of unless they say so themselves.
        num_sphere_samples, otf_graph, use_pbc, use_pbc_single: without effect, and so are regress_hessian,
            hessian_vmap, activation_checkpointing, use_cuda_graph_wigner, use_quaternion_wigner, radius_pbc_version,
            always_use_pbc, edge_chunk_size, execution_mode, use_global_embedding, moe_layer_type, model_version and
            supports_single_atoms.

    Raises:
        TypeError, ValueError: naming the argument.
    """

    family = "ESCNMD"
    strict_neighbors = False

    @takes(ESCNMDArguments)
    def __init__(self, given: ESCNMDArguments) -> None:
        super().__init__()
        self.config = as_config(given)
        self.cutoff, self.max_neighbors = float(given.cutoff), given.max_neighbors
        self.regress = given.regress_forces, given.regress_stress
        heads = DEFAULT_HEADS if given.heads is None else given.heads
        self.outputs = Outputs.of(heads, given)
        self.backbone = Backbone(given, tuple(sorted(given.datasets)))
        self.output_heads = nn.ModuleDict({name: build_head(name, heads[name], given) for name in sorted(heads)})
        self.task = given.task

    @lasting_tensors()
    @torch.no_grad()
    def merged(
        self,
        data: Any = None,
        *,
        charge: Shaped[Tensor, " structures"] | None = None,
        spin: Shaped[Tensor, " structures"] | None = None,
        dataset: str | None = None,
        **geometry: Any,
    ) -> ESCNMD:
        """The network that this one is for structures of one kind: one matrix in place of those of the experts, in the
        layers and in heads that have some. It is as small and fast as one without, is in evaluation mode, can be
        trained, saved and exported, and refuses structures of another composition (up to multiples), charge, spin or
        dataset, which becomes its `task`.

        Args:
            data, geometry, charge, spin, dataset: structures of that kind, as :meth:`forward` takes them; edges are not
                needed.

        Raises:
            ValueError: they are not of one kind; or this network is in training mode, in which coefficients are random.
        """
        if self.training:
            raise ValueError("model is in training mode, in which experts are mixed at random: model.eval() first")
        structures, systems = self._gather(data, geometry, (charge, spin, dataset))
        kind = Kind.of(structures, systems, self.known)
        kind.check(structures, systems, self.known)
        coefficients = None
        if self.backbone.router is not None:
            system = self.backbone.system(systems)
            coefficients = one_row(
                self.backbone.expert_coefficients(structures.atomic_numbers, structures.batch, system)
            )
        weights = merged_weights(self, coefficients, kind.dataset)
        with torch.device("meta"):
            model = ESCNMD(**merged_config(self.config))
        compare_weights(weights, dict(model.named_parameters()))
        like = self.backbone.sphere_embedding.weight
        model = model.to(like.dtype).to_empty(device=like.device)
        model.load_state_dict(weights, strict=True)
        model.tasks, model.merged_for, model.task = self.tasks, kind, kind.dataset
        return model.eval()

    def about(self) -> dict[str, str]:
        mixing = [module for module in self.modules() if isinstance(module, Experts)]
        trained = {name: sorted(p for p in self.gives if self.tasks.find(p, name)) for name in self.known}
        kinds = [f"{name} ({', '.join(found)})" if found else name for name, found in trained.items()]
        return {
            "task": self.task or "",
            "datasets": ", ".join(kinds),
            "experts": f"{mixing[0].weights.shape[0]}, in {len(mixing)} linear maps" if mixing else "",
            "merged for": "" if self.merged_for is None else str(self.merged_for.to_plain()),
        }

    def leave_out_stress_head(self) -> None:
        lone = {output.head for output in self.outputs.all if output.property == "stress" and not output.gradient}
        heads = {name: head for name, head in (self.config["heads"] or {}).items() if name not in lone}
        if lone:
            self.config |= {"heads": heads, "regress_stress": False}
            self.outputs = Outputs(tuple(output for output in self.outputs.all if output.head not in lone))
            self.output_heads = nn.ModuleDict({n: head for n, head in self.output_heads.items() if n not in lone})
