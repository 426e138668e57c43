"""Neuromorphic chips: each file has the limits, the refusals, the integer arithmetic and the format of one family.

A chip that can be written is a module that `registry.CHIPS` names, with

    LIMITS                       what the chip takes, as `base.Limit`s, for documentation and messages
    Options                      a pydantic model: what `--set <chip>.key=value` may say
    refusals(graph, options)     every reason why the chip does not take a checked graph, each a `base.Refusal`
    write(job, folder)           the chip's files into a folder of their own; a `base.Written` tells what was made

and nothing here imports onnx, torch or a runtime: the arithmetic of a chip is NumPy, so that the export can calibrate
and the runtimes can run it. What a mapping costs is a `report.Mapping`, drawn and tabled alike for all chips; what
rounding lost is in `quantise`.
"""
