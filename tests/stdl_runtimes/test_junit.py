"""JUnit XML that CI systems read: the elements and attributes of the common XSD, and names of others as text."""

import xml.etree.ElementTree as ET

import reports

from stdl_runtimes import junit
from stdl_runtimes.results import Check

# Of the attributes in Jenkins' junit-10.xsd those that we use; a suite must have the first four.
MAY = {
    "testsuites": {"name", "tests", "failures", "errors"},
    "testsuite": {"name", "tests", "failures", "errors", "skipped", "time", "timestamp"},
    "testcase": {"classname", "name", "time"},
    "failure": {"message", "type"},
    "skipped": {"message"},
}
INSIDE = {"testsuites": {"testsuite"}, "testsuite": {"testcase"}, "testcase": {"failure", "skipped"}}


def report():
    flips = [Check("flips", "onnxruntime", n == 2, f"{n} of 9", "flips", 0.1, node=f"lif{n}") for n in (1, 2)]
    gates = [Check("gate: max_p99", "tensorrt", False, "too <slow> & \x00\x1b[31m\ud800 late")] * 2
    return reports.report(
        reports.line("onnxruntime"), checks=(*flips, *gates), skipped={"xylo": "no file"}, network='a"<b>&\x07'
    )


def read(found):
    return ET.fromstring(junit.document(found))


def test_elements_and_attributes_are_those_of_the_common_schema():
    root = read(report())
    for element in root.iter():
        assert set(element.attrib) <= MAY[element.tag]
        assert "name" in element.attrib or element.tag in ("failure", "skipped")
        assert element.tag != "testsuite" or {"name", "tests", "failures", "errors"} <= set(element.attrib)
        assert {child.tag for child in element} <= INSIDE.get(element.tag, set())
    assert root.tag == "testsuites"
    assert root[0].get("timestamp") == "2026-01-02T03:04:05"


def test_counts_are_those_of_the_cases():
    root = read(report())
    for suite in [root, *root]:
        for name, path in (("tests", ".//testcase"), ("failures", ".//failure")):
            assert int(suite.get(name)) == len(suite.findall(path))
    assert (root.get("tests"), root.get("failures"), root[-1].get("skipped")) == ("6", "3", "1")


def test_a_case_for_each_check_by_its_own_name():
    cases = [(case.get("classname"), case.get("name")) for case in read(report()).iter("testcase")]
    assert len(set(cases)) == len(cases)
    assert {name for _, name in cases} >= {"flips 'lif1'", "gate: max_p99", "gate: max_p99 (2)", "runs here"}
    failure = read(report()).find(".//failure")
    assert failure.get("message") == "1 of 9"
    assert failure.text == "onnxruntime, flips: 1 of 9 (it would pass with flips = 0.1)"


def test_names_of_others_are_text():
    root = read(report())
    assert root.find(".//testcase").get("classname") == 'stdl.a"<b>&\ufffd.onnxruntime'
    assert root.findall(".//failure")[-1].get("message") == "too <slow> & \ufffd\ufffd[31m\ufffd late"


def test_it_is_written_whole(tmp_path):
    junit.write(report(), tmp_path / "new" / "junit.xml")
    assert (
        (tmp_path / "new" / "junit.xml").read_bytes().startswith(b"<?xml version='1.0' encoding='utf-8'?>\n<testsuites")
    )
