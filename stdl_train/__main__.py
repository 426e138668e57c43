"""`python -m stdl_train` is `stdl-train`."""

from stdl_train.cli import entry

entry()
