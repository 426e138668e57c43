"""The step graph in ONNX Runtime, with memory bound once: a step is the frame in, one call, the outputs out.

There are two sets of states. A step reads one and writes the other, then they change places; each direction has a
binding of its own. On a GPU the states stay there.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from stdl_export.bundle import Bundle
from stdl_export.common.errors import Unavailable
from stdl_runtimes import base, ort_model, states
from stdl_runtimes.ends import Arrays, Ends
from stdl_runtimes.ort_options import Provider

AnyArray = npt.NDArray[Any]

GRAPH_ID = "gpu_graph_id"  # of a run: which captured graph it replays
MARK = 12288.0  # in an output's memory: it was not written; exact in every type


class HostTensor:
    """Memory that ONNX Runtime and NumPy share."""

    def __init__(self, ort: Any, array: AnyArray) -> None:
        self.array: AnyArray = array.copy(order="C")
        self.value = ort.OrtValue.ortvalue_from_numpy(self.array, "cpu", 0)

    def put(self, array: AnyArray) -> None:
        """Overwrite it."""
        np.copyto(self.array, array)

    def get(self) -> AnyArray:
        """A copy."""
        copied: AnyArray = self.array.copy()
        return copied


class DeviceTensor:
    """Memory on a GPU; `put` and `get` wait for their copies."""

    def __init__(self, ort: Any, array: AnyArray, memory: str) -> None:
        self.value = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), memory, 0)

    def put(self, array: AnyArray) -> None:
        """Overwrite it, at the same address."""
        self.value.update_inplace(np.ascontiguousarray(array))

    def get(self) -> AnyArray:
        """A copy on the host."""
        return np.array(self.value.numpy())


Tensor = HostTensor | DeviceTensor


class Steps(base.Session):
    """A session on the step graph. `graph_ids`: numbers of CUDA graphs that no other session of the model has."""

    def __init__(
        self,
        model: Any,
        provider: Provider,
        bundle: Bundle,
        network_ends: Ends,
        batch: int,
        begin: Mapping[str, AnyArray] | None,
        graph_ids: Iterator[int] | None = None,
    ) -> None:
        self.ends, self.batch = network_ends, batch
        self.initial = states.initial(bundle, batch)
        self._model, self._memory, self._ort = model, provider.memory, ort_model.module()
        self._errors = ort_model.errors()
        manifest = bundle.manifest
        self._inputs, self._outputs = (
            [(each.node, each.name, self._tensor(np.zeros((batch, *each.shape), np.float32))) for each in tensors]
            for tensors in (manifest.input.tensors, manifest.output.tensors)
        )
        self._sets = [{name: self._tensor(each) for name, each in self.initial.items()} for _ in range(2)]
        self._names = {info.input: info.output for info in manifest.states}
        ways = [self._bound(*sets) for sets in (self._sets, self._sets[::-1])]
        options = [None, None] if graph_ids is None else [self._run_options(next(graph_ids)) for _ in ways]
        self._ways = itertools.cycle(zip(ways, options, strict=True))
        if graph_ids is not None:
            self._capture(provider)
        if begin is not None:
            self._write(states.given(manifest.states, begin, batch), base.ALL)

    def advance(self, frames: Arrays) -> Arrays:
        """One call; the sets change places."""
        for node, _, tensor in self._inputs:
            tensor.put(frames[node])
        self._call()
        return {node: tensor.get() for node, _, tensor in self._outputs}

    def close(self) -> None:
        """Let go of the memory."""
        self._ways = itertools.cycle(())
        for held in (self._sets, self._inputs, self._outputs):
            held.clear()

    def _call(self) -> None:
        binding, options = next(self._ways)
        if self._memory is not None:
            binding.synchronize_inputs()  # copies may have a stream of their own
        try:
            self._model.run_with_iobinding(binding, options)
        except self._errors as error:
            next(self._ways)  # so that the next step reads the states that this one read
            raise ort_model.refused(error) from None
        if self._memory is not None:
            binding.synchronize_outputs()
        self._sets.reverse()

    def _read(self, at: base.At) -> base.States:
        """From the set that the next step reads."""
        return {name: tensor.get()[at] for name, tensor in self._sets[0].items()}

    def _write(self, states: Mapping[str, AnyArray], at: base.At) -> None:
        for name, tensor in self._sets[0].items():
            if isinstance(tensor, HostTensor):
                tensor.array[at] = states[name]
            else:
                whole = tensor.get()
                whole[at] = states[name]
                tensor.put(whole)

    def _advance_holding(self, frames: Arrays, held: base.At) -> Arrays:
        """What a step read is still there after it."""
        outputs = self.advance(frames)
        after, before = self._sets
        for name, tensor in after.items():
            old = before[name]
            if isinstance(tensor, HostTensor) and isinstance(old, HostTensor):
                tensor.array[held] = old.array[held]
            else:
                whole = tensor.get()
                whole[held] = old.get()[held]
                tensor.put(whole)
        return outputs

    def _tensor(self, array: AnyArray) -> Tensor:
        if self._memory is None:
            return HostTensor(self._ort, array)
        try:
            return DeviceTensor(self._ort, array, self._memory)
        except self._errors as error:
            raise Unavailable(f"onnxruntime has no memory on the GPU: {error!s:.160}") from None

    def _bound(self, read: Mapping[str, Tensor], written: Mapping[str, Tensor]) -> Any:
        """Everything that the graph takes and gives, at its address."""
        binding = self._model.io_binding()
        try:
            for _, name, tensor in self._inputs:
                binding.bind_ortvalue_input(name, tensor.value)
            for _, name, tensor in self._outputs:
                binding.bind_ortvalue_output(name, tensor.value)
            for into, out in self._names.items():
                binding.bind_ortvalue_input(into, read[into].value)
                binding.bind_ortvalue_output(out, written[into].value)
        except self._errors as error:  # of a graph that is not what the manifest says
            raise ort_model.refused(error) from None
        return binding

    def _run_options(self, number: int) -> Any:
        options = self._ort.RunOptions()
        options.add_run_config_entry(GRAPH_ID, str(number))
        return options

    def _capture(self, provider: Provider) -> None:
        """Record both directions, and see that each replays its own: some versions keep one graph for all.

        A replay writes where its graph was recorded. So what a step is to write is marked, and looked at afterwards.
        """
        for _ in range(4):  # each direction is recorded, then replayed
            marked: Sequence[Tensor] = [tensor for _, _, tensor in self._outputs] + list(self._sets[1].values())
            for tensor in marked:
                tensor.put(np.full_like(tensor.get(), MARK))
            self._call()
            if any((tensor.get() == MARK).all() for tensor in marked):
                raise Unavailable(
                    f"{provider.name} replays one CUDA graph for both sets of states: leave out cuda_graph"
                )
        self._write(self.initial, base.ALL)


def graph_numbers() -> Iterator[int]:
    """Numbers for the captured graphs of one model; 0 is ONNX Runtime's own."""
    return itertools.count(1)
