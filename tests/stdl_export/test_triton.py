"""Model repositories for Triton: each config against Triton's own protobuf and against the graph beside it, and what a
server would do by that config against what the bundle does.
"""

from __future__ import annotations

from pathlib import Path

import nir
import numpy as np
import onnx
import pytest
import several
from bundles import make
from small_graphs import chain, conv_net, frames, full, lif

from stdl_export import assemble, dialects
from stdl_export import bundle as bundles
from stdl_export import graph as graphs
from stdl_export.common.errors import BadInput
from stdl_export.manifest import Arithmetic
from stdl_export.onnx import lower
from stdl_export.targets import Job
from stdl_export.tensorrt import Profile
from stdl_export.triton import model_name
from stdl_runtimes import base

ort = pytest.importorskip("onnxruntime")
pb = pytest.importorskip("tritonclient.grpc.model_config_pb2")
text_format = pytest.importorskip("google.protobuf.text_format")

ONNX = {"TYPE_FP32": "FLOAT", "TYPE_FP16": "FLOAT16", "TYPE_INT64": "INT64"}
NUMPY = {"TYPE_FP32": np.dtype("<f4"), "TYPE_FP16": np.dtype("<f2"), "TYPE_INT64": np.dtype("<i8")}
BOTH = ("onnx", "triton")


def neurons(**stdl):
    """Linear -> LIF -> Linear -> LIF, which spike at every rate."""
    rng = np.random.default_rng(5)
    weights = [(rng.integers(-4, 9, size=size) / 8).astype(np.float32) for size in ((4, 3), (2, 4))]
    nodes = nir.Linear(weights[0]), lif(4), nir.Linear(weights[1]), lif(2, threshold=0.5)
    return chain(*nodes, shape=(3,), output=(2,), **stdl)


@pytest.fixture(scope="module")
def repeated(tmp_path_factory) -> bundles.Bundle:
    return make(tmp_path_factory.mktemp("r") / "b", conv_net(), frames(3, 2, 6, 6), targets=BOTH)


@pytest.fixture(scope="module")
def sequences(tmp_path_factory) -> bundles.Bundle:
    """T is open, the input is a sequence, and the states come out too."""
    graph, x = neurons(input="sequence"), frames(6, 3, 3)
    made = make(tmp_path_factory.mktemp("s") / "b", graph, x, modes=("step",))
    job = Job(graph, ("sequence", "step"), "auto", Profile(1, 4, 8), "fp32", final_states=True)
    return assemble.add(made, job, BOTH)[0]


def config(bundle: bundles.Bundle, name: str):
    """The config of a model, as Triton reads it."""
    text = bundle.file(f"triton/{name}/config.pbtxt").read_text()
    return text_format.Parse(text, pb.ModelConfig())


def model(bundle: bundles.Bundle, name: str) -> onnx.ModelProto:
    return onnx.load(bundle.file(f"triton/{name}/1/model.onnx"))


def kind(field) -> str:
    return pb.DataType.Name(field)


def by_the_graph(bundle: bundles.Bundle, name: str) -> None:
    """Each tensor of the config is the graph's: name, type, sizes; and each of the graph's is in the config."""
    said, graph = config(bundle, name), model(bundle, name).graph
    states = said.sequence_batching.state
    inputs = [(each.name, each) for each in said.input] + [(each.input_name, each) for each in states]
    outputs = [(each.name, each) for each in said.output] + [(each.output_name, each) for each in states]
    for told, found in ((inputs, graph.input), (outputs, graph.output)):
        assert sorted(name for name, _ in told) == sorted(each.name for each in found)
        ends = {each.name: each.type.tensor_type for each in found}
        for each_name, each in told:
            sizes = [dim.dim_value or -1 for dim in ends[each_name].shape.dim]
            assert [*each.dims] == (sizes[1:] if said.max_batch_size else sizes), each_name
            if said.max_batch_size:
                assert ends[each_name].shape.dim[0].dim_param == "batch", each_name
            assert ONNX[kind(each.data_type)] == onnx.TensorProto.DataType.Name(ends[each_name].elem_type)


@pytest.mark.parametrize("name", ["small", "small-step"])
def test_configs_are_tritons_and_say_what_the_graphs_have(repeated, sequences, name: str) -> None:
    for bundle in (repeated, sequences):
        by_the_graph(bundle, name)
        said = config(bundle, name)
        assert (said.name, said.backend) == (name, "onnxruntime")
        assert said.parameters["stdl.graph_sha256"].string_value == bundle.manifest.files["graph.nir"]
        (cuda,) = said.optimization.execution_accelerators.gpu_execution_accelerator
        assert (cuda.name, dict(cuda.parameters)) == ("cuda", {"use_tf32": "0"})


def test_the_scheduling_of_each(repeated, sequences) -> None:
    whole, single = config(repeated, "small"), config(repeated, "small-step")
    assert (whole.max_batch_size, config(sequences, "small").max_batch_size) == (16, 8)
    assert whole.HasField("dynamic_batching")
    assert single.HasField("sequence_batching")
    assert single.sequence_batching.WhichOneof("strategy_choice") == "oldest"
    assert single.sequence_batching.oldest.max_candidate_sequences == 64
    assert [state.input_name for state in single.sequence_batching.state] == ["state.lif1.v", "state.lif2.v"]


def served(bundle: bundles.Bundle, name: str):
    return ort.InferenceSession(str(bundle.file(f"triton/{name}/1/model.onnx")), providers=["CPUExecutionProvider"])


def test_the_model_of_sequences_takes_the_batch_first_and_gives_what_the_bundle_gives(repeated, sequences) -> None:
    x = frames(5, 2, 6, 6, seed=1)
    with base.load(repeated, "onnxruntime") as runtime:
        expected = runtime.run(x)
    (found,) = served(repeated, "small").run(["output"], {"input": x})
    assert found.any()
    np.testing.assert_array_equal(found.swapaxes(0, 1), expected)
    x = frames(7, 5, 3, seed=1)  # [T, B, 3]
    with base.load(sequences, "onnxruntime") as runtime:
        expected, states = runtime.run_to_states(x)
    session = served(sequences, "small")
    names = [each.name for each in session.get_outputs()]
    found = dict(zip(names, session.run(names, {"input": np.ascontiguousarray(x.swapaxes(0, 1))}), strict=True))
    assert found["output"].any()
    np.testing.assert_array_equal(found["output"].swapaxes(0, 1), expected)
    for state in sequences.manifest.states:
        np.testing.assert_array_equal(found[state.output], states[state.input])


class Server:
    """What Triton does with a config of sequence batching: batches of frames of different sequences, states between."""

    def __init__(self, bundle: bundles.Bundle, name: str) -> None:
        self.config, self.session = config(bundle, name), served(bundle, name)
        self.folder = bundle.path / "triton" / name / "initial_state"
        self.held: dict[int, dict[str, np.ndarray]] = {}

    def start(self, state) -> np.ndarray:
        (begin,) = state.initial_state
        assert (begin.data_type, begin.dims) == (state.data_type, state.dims)
        assert begin.name
        if begin.zero_data:
            return np.zeros([1, *begin.dims], NUMPY[kind(begin.data_type)])
        content = (self.folder / begin.data_file).read_bytes()
        return np.frombuffer(content, NUMPY[kind(begin.data_type)]).reshape(1, *begin.dims)

    def step(self, requests: dict[int, np.ndarray], begin: bool) -> dict[int, np.ndarray]:
        """requests: a frame [...] by sequence."""
        states = self.config.sequence_batching.state
        for sequence in requests:
            if begin or sequence not in self.held:
                self.held[sequence] = {state.input_name: self.start(state) for state in states}
        feeds = {"input": np.stack([*requests.values()])}
        for state in states:
            name = state.input_name
            feeds[name] = np.concatenate([self.held[sequence][name] for sequence in requests])
        names = ["output", *(state.output_name for state in states)]
        output, *after = self.session.run(names, feeds)
        for row, sequence in enumerate(requests):
            for state, value in zip(states, after, strict=True):
                self.held[sequence][state.input_name] = value[row : row + 1]
        return {sequence: output[row] for row, sequence in enumerate(requests)}


@pytest.mark.parametrize("membrane", ["fp32", "fp16"])
@pytest.mark.parametrize("initial", [0.0, 0.75])
def test_sequences_in_any_order_are_each_what_a_session_gives(tmp_path: Path, membrane: str, initial: float) -> None:
    """Also where the states do not start at 0, and in half the bytes."""
    precision = "fp32" if membrane == "fp32" else "fp16"
    dialect = dialects.changed(dialects.get("nir"), {"types": {"LIF": {"v_init": str(initial)}}}, "test")
    graph = neurons(input="sequence", dialect=dialects.text(dialect))
    graphs.check(graph, "graph")
    x = frames(6, 4, 3)
    arithmetic = Arithmetic(precision=precision, membrane=membrane)
    bundle = make(tmp_path / "b", graph, x, targets=BOTH, arithmetic=arithmetic)
    by_the_graph(bundle, "small-step")
    starts = lower.states(graph, arithmetic)
    assert any(state.initial.any() for state in starts) == bool(initial)
    assert (tmp_path / "b" / "triton" / "small-step" / "initial_state").exists() == bool(initial)
    server, rng = Server(bundle, "small-step"), np.random.default_rng(0)
    at, found = dict.fromkeys(range(4), 0), {each: [] for each in range(4)}
    while any(step < 6 for step in at.values()):
        ready = [each for each in at if at[each] < 6 and rng.random() < 0.6]
        if ready:
            for each, output in server.step({each: x[at[each], each] for each in ready}, begin=False).items():
                found[each].append(output)
                at[each] += 1
    with base.load(bundle, "onnxruntime") as runtime, runtime.session(4) as session:
        expected = np.stack([session.step(frame) for frame in x])
    assert expected.any()
    np.testing.assert_array_equal(np.stack([np.stack(found[each]) for each in range(4)], axis=1), expected)


def test_where_each_request_says_its_t_it_is_a_batch_of_its_own(tmp_path: Path) -> None:
    graph = conv_net()
    del graph.metadata["stdl.T"]
    bundle = make(tmp_path / "b", graph, frames(3, 2, 6, 6), targets=BOTH)
    by_the_graph(bundle, "small")
    said = config(bundle, "small")
    assert (said.max_batch_size, said.HasField("dynamic_batching")) == (0, False)
    assert {each.name: [*each.dims] for each in said.input} == {"input": [-1, 2, 6, 6], "timesteps": [1]}
    assert [*said.output[0].dims] == [-1, -1, 5]


def test_several_inputs_and_outputs_keep_their_names(tmp_path: Path) -> None:
    bundle = make(tmp_path / "b", several.network(), several.inputs(), targets=BOTH)
    for name in ("small", "small-step"):
        by_the_graph(bundle, name)


@pytest.mark.parametrize("time_form", ["unroll", "scan", "chunks"])
def test_bodies_of_loops_keep_what_they_take_from_outside(tmp_path: Path, time_form: str) -> None:
    """A Scan's body may use a value of the graph around it, whose name is another now."""
    graph, x = neurons(T=6, input="sequence"), frames(6, 3, 3)
    made = make(tmp_path / "b", graph, x, targets=())
    job = Job(graph, ("sequence",), time_form, Profile(), "fp32")
    bundle, _ = assemble.add(made, job, BOTH)
    by_the_graph(bundle, "small")
    (found,) = served(bundle, "small").run(["output"], {"input": np.ascontiguousarray(x.swapaxes(0, 1))})
    np.testing.assert_array_equal(found.swapaxes(0, 1), bundle.golden().output)


def test_names_that_a_config_must_quote(tmp_path: Path) -> None:
    graph = chain(nir.Linear(full(1, 2, 3)), lif(2), shape=(3,), output=(2,), T=3, input="repeat")
    renamed = 'ü "lif" \\ \n'
    graph.nodes = {renamed if name == "n1" else name: node for name, node in graph.nodes.items()}
    graph.edges = [tuple(renamed if end == "n1" else end for end in edge) for edge in graph.edges]
    bundle = make(tmp_path / "b", graph, frames(2, 3), targets=BOTH)
    by_the_graph(bundle, "small-step")
    assert config(bundle, "small-step").sequence_batching.state[0].input_name == f"state.{renamed}.v"


def test_only_what_the_bundle_has_and_what_was_asked_for(tmp_path: Path) -> None:
    graph, x = conv_net(), frames(3, 2, 6, 6)
    only = make(tmp_path / "a", graph, x, modes=("step",), targets=BOTH)
    assert sorted(name for name in only.manifest.files if name.endswith("pbtxt")) == ["triton/small-step/config.pbtxt"]
    both = make(tmp_path / "b", graph, x, targets=("onnx",))
    more, notes = assemble.add(both, Job(graph, ("sequence",), "auto", Profile(), "fp32"), ["triton"])
    assert sorted(name for name in more.manifest.files if name.endswith("pbtxt")) == ["triton/small/config.pbtxt"]
    assert notes == ["Triton models small, batch up to 16; not run here, see docs/serving.md"]
    with pytest.raises(BadInput, match="the bundle has no ONNX graph for --mode sequence: add --target onnx"):
        assemble.add(only, Job(graph, ("sequence",), "auto", Profile(), "fp32"), ["triton"])


def test_model_names_are_folders(repeated) -> None:
    for name, expected in (("digits vgg/5", "digits-vgg-5"), ("../..", "network"), ("a.b_c-d", "a-b_c-d")):
        assert model_name(repeated.manifest.model_copy(update={"network": name})) == expected
