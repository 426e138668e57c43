"""What is computed less often than it is written: passes over a checked program, Program -> Program.

They run where the ONNX lowering starts; the reference does not know them and stays the judge. Each is a file with its
algebra and its refusals, and a row of `PASSES`, whose order stands for a reason. One pass may make room for another (a
sum of two Scales can be 1), so the rows are taken in turn until none of them changes anything; every change takes away
a node, an edge or an addition, so that ends, and running them all again changes nothing.

What has a state, spikes, is an Input or an Output, or is read from the step before keeps its name and its place: those
are what manifests and runtimes know. Parameters are float32, as everywhere right of NIR; new ones are computed in
float64 and rounded once, and where one would overflow, or lose digits below the smallest normal number, nothing is
changed.

Two more of this kind need no pass, because they hang on values and not on nodes; both keep every bit:

share    `onnx.emitter` stores equal constants once, under Scan bodies too; `onnx.lower` sums what several nodes read
         once, and what their sums begin with once.
hoist    A value of the lowering is timed, [T*B, ...], or the same at every step, [B, ...] (`onnx.time.Value`). Where
         the input is repeated, every node without memory in itself or before it (`Program.timeless`) is computed for B
         samples instead of T*B, what neurons do with it in front of their state too; and what `constants` finds is
         never timed. A Delay is timed: it begins with zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

from stdl_export.passes import constants, drop_identities, fold_scale, merge_linear, share
from stdl_export.program import Program


class Pass(NamedTuple):
    """One pass.

    keeps: every bit of what is put out, or the function up to rounding; says: of the nodes that it takes away; why: it
    stands where it does.
    """

    name: str
    run: Callable[[Program], Program]
    keeps: Literal["bits", "rounding"]
    says: str
    why: str


PASSES: tuple[Pass, ...] = (
    Pass(
        "drop_identities", drop_identities.run, "bits",
        says="puts out what goes in", why="an identity hides the nodes on its two sides from each other",
    ),
    Pass(
        "share", share.run, "bits",
        says="equal to another node", why="while equal nodes are still equal: one Conv behind two Scales is one Conv",
    ),
    Pass(
        "constants", constants.run, "rounding",
        says="no input reaches it", why="needs no other pass, and what it takes away nobody has to fold",
    ),
    Pass(
        "fold_scale", fold_scale.run, "rounding",
        says="goes into the weights beside it", why="branches that differ in a Scale only become parallel weights",
    ),
    Pass(
        "merge_linear", merge_linear.run, "rounding",
        says="its weights are added to others'", why="last: weights that were merged fit no other node any more",
    ),
)  # fmt: skip


def applied(made: Program) -> Iterator[tuple[str, Program]]:
    """The name of each pass that changes something, in the order of events, and the program after it."""
    changed = True
    while changed:
        changed = False
        for each in PASSES:
            after = each.run(made)
            if after is not made:
                made, changed = after, True
                yield each.name, made


def optimised(made: Program) -> Program:
    """The program after all passes."""
    for _, after in applied(made):
        made = after
    return made
