"""Environment variables that libraries read once, as they are loaded: set before torch is imported.

A variable that the user has set stays as it is.
"""

import os
from pathlib import Path

_CHECKOUT = Path(__file__).resolve().parents[2]

_VARIABLES = {
    # nothing calls home
    "DO_NOT_TRACK": "1",
    # OpenMP: threads that wait must sleep, not spin for long. On two shared cores spinning made an
    # update of the nano model 13 times slower (1.15 s instead of 0.09 s).
    "OMP_WAIT_POLICY": "PASSIVE",
    # GNU's OpenMP, which torch brings: spin for about a millisecond first, as the next operation
    # mostly follows at once. Waking threads for each one took a third of an update (0.28 instead of
    # 0.18 s on two idle cores; 0.3 instead of 0.4 to 0.5 s beside two busy processes).
    "GOMP_SPINCOUNT": "30000",
    # MKL: matrix products give the same bits with any number of threads. Without it a product with
    # AVX-512 splits its sum among the threads; the time is the same.
    "MKL_CBWR": "AUTO,STRICT",
    # on import matplotlib creates a folder in the user's home; this keeps it in the checkout
    "MPLCONFIGDIR": str(_CHECKOUT / ".scratch" / "matplotlib"),
}


def set_up_environment() -> None:
    """Set the variables of this process and of those it starts."""
    for name, value in _VARIABLES.items():
        os.environ.setdefault(name, value)
