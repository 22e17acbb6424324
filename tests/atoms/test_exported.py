"""Potentials as programs that run without this package: of any size, with forces and stress, also compiled."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from equiformer_pytorch.atoms import Input, Potential, export_potential
from equiformer_pytorch.atoms.exported import FIELDS
from examples.exported import write
from tests import published_cases
from tests.atoms import potentials
from tests.atoms.kinds import KINDS, SMALL, build, relative, structures
from tests.atoms.test_door import batch_of, shuffled
from tests.models import mostly_slow

pytestmark = [
    pytest.mark.unchecked,
    pytest.mark.skipif(not hasattr(torch.compiler, "is_exporting"), reason="symbolic sizes take a newer torch"),
    # torch.export looks at .grad of whatever it is given, and at its own deprecated parts.
    pytest.mark.filterwarnings("ignore:The .grad attribute"),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]

# Where nothing of this package can be imported.
ELSEWHERE = """
    import sys
    class Absent:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in ("equiformer_pytorch", "einops", "jaxtyping", "beartype", "ase"):
                raise ImportError(name)
    sys.meta_path.insert(0, Absent())
    import torch
    cases, out, *files = sys.argv[1:]
    found = {}
    with torch.no_grad():
        for file in files:
            compiled = "compiled" in file
            program = torch._inductor.aoti_load_package(file) if compiled else torch.export.load(file).module()
            found[file] = [program(**case) for case in torch.load(cases)]
    torch.save(found, out)
"""


def alone() -> dict[str, Tensor]:
    """One atom that nothing is near to."""
    pos = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
    return {"atomic_numbers": torch.tensor([6]), "pos": pos, "cell": 20 * torch.eye(3, dtype=torch.float64)[None]}


# Experts are mixed for each structure; a merged network, as `escn_md` has none, is a program.
EXPORTED = tuple(kind for kind in KINDS if kind != "experts")


def cases_for(model: Potential) -> list[dict[str, Any]]:
    """:func:`cases`, with what the model takes beside."""
    found = cases()
    for case in found if model.inputs else []:
        size = (len(case["cell"]),)
        case["inputs"] = {
            name: torch.full(size, float(each.default), dtype=torch.float64) for name, each in model.inputs.items()
        }
    return found


def cases() -> list[dict[str, Any]]:
    """Batches of all sizes, up to one structure, and one atom without an edge; atoms and edges in any order."""
    large = [potentials.molecule(90, seed, 6.0) for seed in range(3)]
    box = 30 * torch.eye(3, dtype=torch.float64)[None]
    batches = [structures(), structures()[:1], [alone()], [{**each, "cell": box} for each in large]]
    found = [shuffled(batch_of(batch))[0] for batch in batches]
    return [{name: batch[name] for name in FIELDS} for batch in found]


def elsewhere(files: list[str], given: list[dict[str, Any]], folder: Path) -> dict[str, list[dict[str, Tensor]]]:
    """What the programs of these files give in a process of their own, without this package."""
    torch.save(given, folder / "cases.pt")
    command = [sys.executable, "-c", textwrap.dedent(ELSEWHERE), "cases.pt", "out.pt", *files]
    subprocess.run(command, check=True, cwd=folder)
    return torch.load(folder / "out.pt")


def assert_same(found: list[dict[str, Tensor]], model: Potential, given: list[dict[str, Any]], **wanted) -> None:
    for out, case in zip(found, given, strict=True):
        case = {**case, **case.get("inputs", {})}
        exact = model.evaluate(case, **{"stress": "stress" in model.gives, **wanted})
        assert out.keys() == exact.keys()
        for name, value in exact.items():
            assert out[name].dtype == value.dtype
            assert out[name].shape == value.shape
            if value.abs().max() > 1e-12:
                assert relative(out[name], value) < 1e-12, name
            else:  # an atom alone
                assert out[name].abs().max() < 1e-12, name


# Direct forces, and derivatives of each engine; what V3 has beside is in `gradient`.
COMPILED = ("own", "v2", "gradient", "escn_md")


@pytest.mark.slow
@pytest.mark.parametrize("kind", EXPORTED)
def test_files_that_run_without_this_package(kind: str, tmp_path: Path) -> None:
    """A program of torch.export and, where there is a C++ compiler, the same compiled ahead of time."""
    model, files = build(kind, **SMALL[kind]), ["plain.pt2"]
    program = export_potential(model)
    torch.export.save(program, tmp_path / "plain.pt2")
    if kind in COMPILED and shutil.which("g++") is not None:
        files.append("compiled.pt2")
        # Without optimisation: what is compiled is ours, how well is not.
        torch._inductor.aoti_compile_and_package(
            program, package_path=str(tmp_path / "compiled.pt2"), inductor_configs={"aot_inductor.debug_compile": True}
        )
    given = cases_for(model)
    found = elsewhere(files, given, tmp_path)
    for file in files:
        assert_same(found[file], model, given)
    assert next(model.parameters()).requires_grad


@pytest.mark.slow
def test_inputs_and_what_is_left_out() -> None:
    """Charges of structures and numbers of atoms are arguments of the program; without forces there are none."""
    inputs = {"charge": Input(least=-2, most=2), "field": Input("atom")}
    model = potentials.potential(targets={"dipole": potentials.Target(1, "structure")}, inputs=inputs)
    program = export_potential(model, forces=False, stress=False).module()
    given = cases()[:2]
    for case in given:
        field = torch.linspace(-1, 1, len(case["pos"]), dtype=torch.float64)
        case["inputs"] = {"charge": torch.arange(len(case["cell"])).double() - 1, "field": field}
    assert_same([program(**case) for case in given], model, given, forces=False, stress=False)
    assert "forces" not in program(**given[0])


@pytest.mark.parametrize("kind", mostly_slow(KINDS, "v2"))
def test_what_cannot_be_exported_is_said(kind: str) -> None:
    model, case = build(kind), cases()[0]
    if "stress" not in model.gives:
        with pytest.raises(ValueError, match="stress is wanted, and the potential gives only"):
            export_potential(model, stress=True)
    elif kind == "experts":
        with pytest.raises(ValueError, match="a mixture of experts cannot be exported"):
            export_potential(model)
    elif kind in ("own", "gradient"):
        with pytest.raises(ValueError, match=r"cannot be traced by torch.export.*export_potential"):
            torch.export.export(model, (), case, strict=False)
    assert not torch.compiler.is_exporting()


@pytest.mark.slow
def test_float32_stays() -> None:
    model = build("own", **SMALL["own"]).float()
    given = cases()[:1]
    found, exact = export_potential(model).module()(**given[0]), model.evaluate(given[0], stress=True)
    assert found["charges"].dtype == torch.float32
    assert found["energy"].dtype == torch.float64
    assert relative(found["forces"], exact["forces"]) < 1e-5


@pytest.mark.parametrize(
    "limits",
    [{"max_neighbors": 5}, {"max_neighbors": 5, "enforce_max_neighbors_strictly": False}, {"use_pbc": False}],
    ids=["nearest", "nearly", "open"],
)
def test_the_example_gives_what_the_potential_sees(limits: dict[str, Any]) -> None:
    """All within the cutoff would be other energies."""
    ase = pytest.importorskip("ase")
    run = pytest.importorskip("examples.exported.run")
    model = published_cases.build("v2", max_radius=potentials.CUTOFF, **limits, **SMALL["v2"])
    each = structures()[0]
    atoms = ase.Atoms(each["atomic_numbers"].numpy(), each["pos"].numpy(), cell=each["cell"][0].numpy(), pbc=True)
    known = {**write.known_of(model), "device": "cpu"}
    found, exact = model.evaluate(run.structure(atoms, known)), model.evaluate(each)
    assert relative(found["energy"], exact["energy"]) < 1e-12
    assert relative(found["forces"], exact["forces"]) < 1e-10


@pytest.mark.parametrize("most", [3, 6, 13])
def test_the_example_in_a_perfect_crystal(most: int) -> None:
    """Where neighbours are equally near: the same ones."""
    pytest.importorskip("ase")
    from ase.build import bulk

    from equiformer_pytorch.atoms import radius_graph

    run = pytest.importorskip("examples.exported.run")
    atoms = bulk("Al", cubic=True)
    known = {"cutoff": 4.5, "max_neighbors": most, "strict_neighbors": True, "use_pbc": True, "device": "cpu"}
    given = run.structure(atoms, known)
    edges, offsets = radius_graph(given["pos"], 4.5, cell=given["cell"], max_neighbors=most)
    found, wanted = (
        set(map(tuple, torch.cat((pairs, cells.T)).T.long().tolist()))
        for pairs, cells in ((given["edge_index"], given["cell_offsets"]), (edges, offsets))
    )
    assert found == wanted
    assert len(found) == 4 * most


@pytest.mark.slow
def test_the_example(tmp_path: Path) -> None:
    """Written by one program, run by one that knows nothing of this package."""
    ase_io, ase = pytest.importorskip("ase.io"), pytest.importorskip("ase")
    model = build("own", **SMALL["own"])
    model.save(tmp_path / "potential.pt")
    frames = [
        ase.Atoms(each["atomic_numbers"].numpy(), each["pos"].numpy(), cell=each["cell"][0].numpy(), pbc=True)
        for each in structures()
    ]
    ase_io.write(tmp_path / "frames.traj", frames)
    script = Path(__file__).resolve().parents[2] / "examples" / "exported" / "run.py"
    write.main([str(tmp_path / "potential.pt"), str(tmp_path / "program.pt2"), "--double"])
    run = (
        "import sys, runpy; sys.modules['equiformer_pytorch'] = None;"
        f"runpy.run_path({str(script)!r}, run_name='__main__')"
    )
    command = [sys.executable, "-W", "ignore", "-c", run, "program.pt2", "frames.traj"]
    told = subprocess.run(command, check=True, cwd=tmp_path, capture_output=True, text=True).stdout.splitlines()
    exact = model.evaluate(batch_of(structures()))
    assert [float(line.split()[2]) for line in told] == pytest.approx(exact["energy"].tolist(), abs=1e-8)
    assert float(told[0].split()[6]) == pytest.approx(exact["forces"][:3].norm(dim=1).max().item(), abs=1e-6)
