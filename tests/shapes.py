"""What checks annotations while tests run, where that is asked for: shapes, dtypes, types.

A float may be an int, as everywhere in Python (PEP 484).
"""

import os

from beartype import BeartypeConf, beartype

# Off until all annotations are true.
CHECK_SHAPES = os.environ.get("CHECK_SHAPES", "0") == "1"
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
