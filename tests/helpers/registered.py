"""Entry points for tests: what the package registers when it is installed, and what a test adds."""

import importlib.metadata
import types

from stdl_train.data import encoders
from stdl_train.data.events.digits_events import digits_events

ENCODERS = {"direct": encoders.direct, "poisson": encoders.poisson, "latency": encoders.latency, "rows": encoders.rows}

DATASETS = {"digits-events": digits_events}


def provide(monkeypatch, datasets=None, **more):
    """Let the package's own entry points be found, whatever is installed, `more` encoders and other data sets too."""
    groups = {"stdl.encoders": ENCODERS | more, "stdl.datasets": DATASETS | (datasets or {})}
    installed = importlib.metadata.entry_points

    def entry_points(group):
        ours = [types.SimpleNamespace(name=n, load=lambda f=f: f) for n, f in groups.get(group, {}).items()]
        return [*ours, *(entry for entry in installed(group=group) if entry.name not in groups.get(group, {}))]

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    monkeypatch.setattr("stdl_train.data.encoders.entry_points", entry_points)
    monkeypatch.setattr("stdl_train.data.samples.entry_points", entry_points)
