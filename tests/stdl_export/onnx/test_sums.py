"""Fan-in: equal sets of sources are summed once, whoever reads them."""

from __future__ import annotations

from networks import lively, residual_spec

from stdl_export.fold import fold
from stdl_export.from_torch import to_nir
from stdl_export.onnx import lower
from stdl_models.nets.registry import build_network


def test_equal_sets_of_sources_are_summed_once():
    graph = to_nir(fold(lively(build_network(residual_spec()))))
    adds = [node for node in lower.sequence(graph).graph.node if node.op_type == "Add" and "/sum." in node.name]
    # r2.a reads 2 sources, r3.a and r3.shortcut the same 3, the pool 2: 1 + 2 + 1 additions
    assert len(adds) == 4
