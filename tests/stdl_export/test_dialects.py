from __future__ import annotations

import json
from pathlib import Path

import pytest

from stdl_export import dialects
from stdl_export.common.errors import BadInput
from stdl_export.dialects import DIALECTS, FIELDS, Dialect, Rule


def refused(said: object) -> str:
    with pytest.raises(BadInput) as error:
        dialects.get(json.dumps(said))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("cyclic", [False, True])
def test_every_named_dialect_has_complete_rules(name: str, cyclic: bool) -> None:
    dialect = DIALECTS[name]
    assert dialect.explanation
    assert len(dialect.explanation) < 120
    for kind, fields in FIELDS.items():
        rule = dialects.rule(dialect, kind, "n", cyclic=cyclic)
        assert set(rule.said()) <= set(fields), "a rule of another type"
        assert set(fields) - set(rule.said()) <= {"v_min"}, "v_min alone may be left out"
        assert dialects.reasons(kind, rule) == []
    choices = dialects.choices(dialect)
    assert None not in (choices.feedback, choices.flatten_dims, choices.drop_bias, choices.delays)
    assert (choices.dt is None) == (name == "nir")


@pytest.mark.parametrize("name", DIALECTS)
def test_text_and_back(name: str) -> None:
    assert dialects.text(DIALECTS[name]) == name
    assert dialects.get(name) is DIALECTS[name]
    assert dialects.text(Dialect(base=name)) == name
    changed = dialects.changed(DIALECTS[name], {"nodes": {"a/b": {"spike": ">="}}}, "a test")
    said = dialects.text(changed)
    assert json.loads(said) == {"base": name, "nodes": {"a/b": {"spike": ">="}}}
    assert dialects.get(said) == changed
    assert dialects.base(changed) == name
    assert dialects.rule(changed, "LIF", "a/b").spike == ">="
    assert dialects.rule(changed, "LIF", "b") == dialects.rule(DIALECTS[name], "LIF", "b")


def test_rules_are_laid_over_each_other_in_order() -> None:
    said = {
        "base": "snntorch-zero",
        "types": {"LIF": {"gain": "2"}, "LIF@cycle": {"leak": "3"}},
        "reset": "none",
        "nodes": {"a": {"gain": 4, "reset": 0.5}},
    }
    dialect = dialects.get(json.dumps(said))
    plain, loop = dialects.rule(dialect, "LIF", "b"), dialects.rule(dialect, "LIF", "b", cyclic=True)
    assert (plain.decay, plain.gain, plain.leak) == ("1-dt/tau", "2", "v_leak*dt/tau")
    assert (loop.gain, loop.leak, loop.reset, loop.reset_when) == ("2", "3", "none", "next_drop")
    node = dialects.rule(dialect, "LIF", "a")
    assert (node.gain, node.reset, node.reset_when) == ("4.0", "0.5", "now")
    assert dialects.rule(dialect, "LI", "b").said().keys() == {"decay", "gain", "leak", "v_init", "output"}


def test_what_the_graph_says_of_its_reset_goes_over_the_named_dialect_only() -> None:
    assert dialects.rule(dialects.NIR, "LIF", "a", reset="subtract").reset == "subtract"
    assert dialects.rule(dialects.NIR, "LI", "a", reset="subtract").reset is None
    own = dialects.get('{"nodes": {"a": {"reset": "zero"}}}')
    assert dialects.rule(own, "LIF", "a", reset="subtract").reset == "zero"
    assert dialects.rule(own, "LIF", "b", reset="subtract").reset == "subtract"


def test_null_takes_a_clamp_away() -> None:
    dialect = dialects.get('{"base": "nengo", "nodes": {"a": {"v_min": null}}}')
    assert dialects.rule(dialect, "LIF", "b").v_min == "0"
    assert dialects.rule(dialect, "LIF", "a").v_min is None


def test_null_elsewhere_says_nothing() -> None:
    dialect = dialects.get('{"nodes": {"a": {"v_init": null, "reset": null, "spike": ">="}}}')
    assert dialects.rule(dialect, "LIF", "a") == dialects.rule(dialects.NIR, "LIF", "a").model_copy(
        update={"spike": ">="}
    )


def test_a_reset_for_all_goes_over_what_nodes_said_before() -> None:
    dialect = dialects.get('{"types": {"IF": {"reset": "none"}}, "nodes": {"a": {"reset": "zero", "spike": ">="}}}')
    changed = dialects.changed(dialect, {"reset": "subtract", "nodes": {"b": {"reset": "v_reset"}}}, "a test")
    assert [dialects.rule(changed, "IF", name).reset for name in "abc"] == ["subtract", "v_reset", "subtract"]
    assert dialects.rule(changed, "IF", "a").spike == ">="


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ({"types": {"LIF": {"spkie": ">"}}}, "unknown key 'types.LIF.spkie': did you mean 'spike'?"),
        ({"nodes": {"a b": {"rset": ">"}}}, "unknown key 'nodes.a b.rset': did you mean 'reset'?"),
        ({"graph": {"feedbak": "x"}}, "unknown key 'graph.feedbak': did you mean 'feedback'?"),
        ({"node": {}}, "unknown key 'node': did you mean 'nodes'?"),
        ({"types": {"LIFF": {}}}, "types: unknown node type 'LIFF': did you mean 'LIF'?"),
        ({"types": {"Linear": {"decay": "1"}}}, "types: unknown node type 'Linear'"),
        ({"types": {"LIF": {"decay": "1-dt/tua"}}}, "types.LIF: decay: '1-dt/tua': unknown name 'tua' at character 6"),
        ({"types": {"LIF": {"gain": "leak"}}}, "unknown name 'leak'"),
        ({"types": {"LIF": {"decay": "1-"}}}, "'types.LIF.decay' = '1-'"),
        ({"types": {"LIF": {"decay": True}}}, "'types.LIF.decay' = True"),
        ({"types": {"LIF": {"syn_gain": "1"}}}, "types.LIF: a LIF takes no 'syn_gain'"),
        ({"types": {"LI": {"spike": ">"}}}, "types.LI: a LI takes no 'spike'"),
        ({"types": {"Threshold": {"spike": "floor"}}}, "a Threshold takes spike '>' or '>='"),
        ({"types": {"LIF": {"spike": "<"}}}, "'types.LIF.spike' = '<'"),
        ({"types": {"LIF": {"reset": "zeroo"}}}, "unknown name 'zeroo'"),
        ({"types": {"LIF": {"reset": "zero", "reset_when": "next_sub"}}}, "goes with reset 'subtract', not 'zero'"),
        ({"types": {"LIF": {"spike": "floor", "reset_when": "now_nodouble"}}}, "takes spike '>' or '>='"),
        ({"types": {"LIF": {"spike_from": "prev", "reset_when": "next_drop"}}}, "spike_from 'prev' goes with"),
        ({"graph": {"dt": 0}}, "'graph.dt' = 0"),
        ({"graph": {"dt": "fast"}}, "'graph.dt' = 'fast'"),
        ({"graph": {"delays": {"Affine": -1}}}, "'graph.delays.Affine' = -1"),
        ({"graph": {"delays": {"Afine": 1}}}, "graph.delays: unknown node type 'Afine': did you mean 'Affine'?"),
        ({"base": "snntorc"}, "unknown base 'snntorc': did you mean 'snntorch'?"),
    ],
)
def test_what_a_dialect_may_not_say(said: object, line: str) -> None:
    assert line in refused(said)


def test_every_reason_at_once() -> None:
    said = refused({"types": {"LIF": {"decay": "tua", "output": "new"}, "IF": {"gain": "tau"}}})
    assert all(part in said for part in ("types.LIF: a LIF takes no 'output'", "unknown name 'tua'", "types.IF: gain"))


@pytest.mark.parametrize("said", ["{", "[1]", '{"a":', "{" * 100000])
def test_json_that_is_none(said: str) -> None:
    with pytest.raises(BadInput, match="dialect"):
        dialects.get(said)


def test_files(tmp_path: Path) -> None:
    said = {"graph": {"dt": 0.5, "rec_input_via": "lif"}, "nodes": {"1.lif": {"spike": ">="}}}
    (tmp_path / "a.json").write_text(json.dumps(said))
    (tmp_path / "case.json").write_text(json.dumps({"name": "x", "dt": 0.1, "dialect": said}))
    (tmp_path / "a.toml").write_text('graph = {dt = 0.5, rec_input_via = "lif"}\n[nodes."1.lif"]\nspike = ">="\n')
    found = [dialects.read(str(tmp_path / name)) for name in ("a.json", "case.json", "a.toml")]
    assert found[0] == found[1] == found[2]
    assert dialects.choices(found[0]).dt == 0.5
    assert dialects.rule(found[0], "LIF", "1.lif").spike == ">="
    assert dialects.read("snntorch") is DIALECTS["snntorch"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", b"{", "is not JSON"),
        ("a.json", b"[]", "is not a JSON object"),
        ("a.json", b"\xff", "is not UTF-8"),
        ("a.toml", b"a = ", "is not valid TOML"),
        ("a.toml", b"[nodes.a]\nspkie = 1", "unknown key 'nodes.a.spkie'"),
        ("a.json", b" " * (dialects.MAX_FILE_BYTES + 1), "is larger than 1 MiB"),
        ("b.json", None, "does not exist"),
        ("nirr", None, "unknown dialect '{}': did"),
        ("a.txt", b"", "or give a .toml or .json file"),
    ],
)
def test_what_is_no_dialect_file(tmp_path: Path, name: str, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    where = name if name == "nirr" else str(tmp_path / name)
    with pytest.raises(BadInput) as error:
        dialects.read(where)
    assert said.replace("{}", name) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_rule_over_another_keeps_what_it_does_not_say() -> None:
    assert Rule(gain="1").over(Rule(gain="2", leak="3")).said() == {"gain": "1", "leak": "3"}
