"""What passes made of a graph, judged by the reference on the graph as it was."""

from __future__ import annotations

import nir
import numpy as np
import random_programs
from run_onnx import run_sequence_outputs, run_steps_outputs

from stdl_export import graph as graphs
from stdl_export.passes import optimised
from stdl_export.program import Program, program
from stdl_runtimes import reference


def judged(graph: nir.NIRGraph, seed: int = 0) -> Program:
    """The program after all passes, when its sequence and step graphs give the reference's numbers bit for bit.

    The graph: T = random_programs.STEPS, parameters that are exact in all sums. Its outputs are not all zeros.
    """
    x = random_programs.inputs(graph, seed=seed)
    repeat = graphs.settings(graph).input == "repeat"
    if repeat:
        x = {name: each[0] for name, each in x.items()}
    wanted = reference.run(graph, x, T=random_programs.STEPS if repeat else None).outputs
    assert any(output.any() for output in wanted.values())
    for found in (run_sequence_outputs(graph, x, random_programs.STEPS), run_steps_outputs(graph, x, 6)):
        for name, output in wanted.items():
            np.testing.assert_array_equal(found[name], output, err_msg=name)
    return optimised(program(graph))


def kinds(made: Program) -> list[str]:
    """The types of the nodes between Inputs and Outputs, sorted."""
    ends = (nir.Input, nir.Output)
    return sorted(type(node.node).__name__ for node in made.nodes.values() if not isinstance(node.node, ends))
