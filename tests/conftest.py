"""One torch thread, as tests share the machine; hypothesis repeats itself exactly."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("melodac", deadline=None, derandomize=True)
settings.load_profile("melodac")
