"""How fast training is beside the loops that one could use instead: `python -m benchmarks`."""

import os

# Read by TensorFlow and JAX when they are imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
