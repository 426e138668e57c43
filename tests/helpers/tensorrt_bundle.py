"""A bundle with two fake engines in it, and the fake GPU they run on."""

import bundles
import numpy as np
from chains import small_network
from fake_gpu import FakeCuda, FakeEngine, FakeProbe, FakeTensorRt
from several import inputs as several_inputs
from several import network

from stdl_export import graph as graphs
from stdl_export.manifest import FP32, EngineInfo
from stdl_runtimes import base, cuda, tensorrt_engine

T = 5


def inputs(batch, mode):
    shape = (batch, 2, 6, 6) if mode == "repeat" else (T, batch, 2, 6, 6)
    return np.random.default_rng(0).normal(0.5, 1, shape).astype(np.float32)


class Gpu:
    """See the module. given: another graph and its input; `changes` are of what the manifest says about the engines."""

    def __init__(
        self,
        folder,
        monkeypatch,
        mode="repeat",
        batch=(1, 1, 4),
        fake=None,
        several=False,
        arithmetic=FP32,
        device=None,
        engine=FakeEngine,
        probe=False,
        given=None,
        **changes,
    ):
        self.graph = network(mode, T) if several else small_network(mode=mode, readout="li", T=T)
        self.x = several_inputs(mode, 6, T) if several else inputs(6, mode)
        if given is not None:
            self.graph, self.x = given
        steps = graphs.settings(self.graph).T
        bundle = bundles.make(folder, self.graph, self.x, arithmetic=arithmetic)
        self.cuda = device or FakeCuda()
        states, repeated = bundle.manifest.states, mode == "repeat"
        self.engines = {
            name: engine(self.graph, self.cuda, name, states, steps, repeated, several and name == "sequence")
            for name in ("sequence", "step")
        }
        if probe:
            self.engines["probe"] = FakeProbe(bundle.file("model.probe.onnx"), self.cuda)
        infos = []
        for name in self.engines:
            (folder / f"{name}.engine").write_text(name)
            info = EngineInfo(
                file=f"{name}.engine",
                flavour="tensorrt_rtx",
                version="1.0",
                mode=name,
                tf32=False,
                batch=batch,
                timesteps=None if name == "step" else steps,
                final_states=several and name == "sequence",
                compute_capability=None,
                graph_sha256=bundle.manifest.files["graph.nir"],
            )
            infos.append(info.model_dump() | changes)
        self.bundle = bundles.rehash(bundle, [f"{name}.engine" for name in self.engines], engines=infos)
        self.trt = fake or FakeTensorRt(self.engines)
        self.install(monkeypatch)

    def install(self, monkeypatch):
        """Let what is opened from now on run on this one."""
        monkeypatch.setattr(cuda, "open_device", lambda: self.cuda)
        monkeypatch.setattr(tensorrt_engine, "module", lambda flavour: self.trt)

    def load(self, **options):
        return base.load(self.bundle, "tensorrt", options=options)

    def rehash(self, infos):
        self.bundle = bundles.rehash(self.bundle, [], engines=infos)
