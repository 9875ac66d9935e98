"""What every child needs, imported once by the fork server on machines without a CUDA device."""

import logging

# It warns that it could fetch a compiled kernel from a hub, which this project never does.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

import bitsandbytes  # noqa: E402, F401
import peft  # noqa: E402, F401
import pyarrow.parquet  # noqa: E402, F401
import safetensors.torch  # noqa: E402, F401
import torch  # noqa: E402, F401
import transformers.trainer  # noqa: E402, F401
