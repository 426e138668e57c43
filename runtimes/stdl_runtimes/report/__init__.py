"""A validation as people and programs read it: tables on the terminal, a page of HTML, JSON."""

from stdl_runtimes.report.json_file import write_json as write_json
from stdl_runtimes.report.page import write_html as write_html
from stdl_runtimes.report.tables import Table as Table
from stdl_runtimes.report.tables import as_rich as as_rich
from stdl_runtimes.report.tables import tables as tables
