"""Device and thread count of torch, from the `runtime` section."""

import os

import torch

from melodac.errors import ConfigError
from pipeline.params import RuntimeParams


def set_up_torch(runtime: RuntimeParams) -> torch.device:
    """Set torch's thread count and return the device to use.

    Raises:
        ConfigError: If CUDA is requested and not available.
    """
    # set by torchrun: processes on one machine share its cores
    num_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(runtime.threads or max(1, (os.cpu_count() or 1) // num_processes))
    has_cuda = torch.cuda.is_available()
    if runtime.device == "cuda" and not has_cuda:
        raise ConfigError("runtime.device = 'cuda': no CUDA device here, use auto or cpu")
    use_cuda = runtime.device != "cpu" and has_cuda
    return torch.device("cuda" if use_cuda else "cpu")
