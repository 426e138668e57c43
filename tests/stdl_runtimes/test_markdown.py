"""The summary for CI systems; what names of others could do to a page is done to them first."""

import pytest
import reports

from stdl_runtimes import markdown
from stdl_runtimes.results import Check


def test_a_row_for_each_runtime(tmp_path):
    found = reports.report(reports.line("onnxruntime", timed=reports.latency()), reports.line("onnxruntime step"))
    markdown.write(found, tmp_path / "summary.md")
    page = (tmp_path / "summary.md").read_text()
    assert page.startswith("## ✅ small: PASS\n")
    rows = [line.strip("|").split("|") for line in page.splitlines() if line.startswith("|")]
    assert {len(row) for row in rows} == {12}
    head, _, trained, onnx, step = [[cell.strip() for cell in row] for row in rows]
    assert (head[0], head[-1]) == ("runtime", "cold start ms")
    assert trained[:2] == [r"trained \(PyTorch\)", "95.00% (91.0% to 97.0%)"]
    assert onnx[3:] == ["99.50% (97.0% to 99.9%)", "2", "1", "+0.100", "1.000", "1.500", "2.000", "5000", "450"]
    assert step[-5:] == [""] * 5


def test_what_failed_comes_first():
    check = Check("flips", "onnxruntime", False, "5 of 9 flipped", "flips", 0.56)
    page = markdown.document(
        reports.report(reports.line("onnxruntime"), checks=(check,), skipped={"xylo": "no *file*"})
    )
    assert page.startswith("## ❌ small: FAIL: 1 of 2 checks\n")
    assert page.index(r"- onnxruntime, flips\: 5 of 9 flipped \(it would pass with flips = 0\.56\)") < page.index("|")
    assert r"- skipped: xylo, no \*file\*" in page


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("<script>alert(1)</script>", r"&lt;script&gt;alert\(1\)&lt;/script&gt;"),
        ("a|b\n| c |", r"a\|b \| c \|"),
        ("[x](http://y) @all #1 `code`", r"\[x\]\(http\://y\) \@all \#1 \`code\`"),
        ("&amp; \x1b[31m\u202e", "&amp;amp; \ufffd\\[31m\ufffd"),
    ],
)
def test_names_of_others_are_text(given, shown):
    assert markdown.text(given) == shown
