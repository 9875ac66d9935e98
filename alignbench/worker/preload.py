"""What every child needs, imported once by the fork server on machines without a CUDA device."""

import gc
import logging

# The imports make a million objects that stay. Garbage collection would take a fifth of their time; in a child it
# would write to each of them, and so copy the memory that children share.
gc.disable()

# It warns that it could fetch a compiled kernel from a hub, which this project never does.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

from alignbench.models import stack  # noqa: E402

stack.import_bitsandbytes()

import peft  # noqa: E402, F401
import pyarrow.parquet  # noqa: E402, F401
import safetensors.torch  # noqa: E402, F401
import torch  # noqa: E402, F401
import transformers.trainer  # noqa: E402, F401

import alignbench.models.loading  # noqa: E402
import alignbench.training.trainer  # noqa: E402
import alignbench.worker.tasks.evaluate  # noqa: E402
import alignbench.worker.tasks.prepare  # noqa: E402, F401

gc.freeze()
gc.enable()
