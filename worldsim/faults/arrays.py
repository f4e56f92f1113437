"""The types of the arrays that go through this package."""

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Rows = NDArray[np.int64]  # of a batch, one row a session, ascending; also numbers of their calls
