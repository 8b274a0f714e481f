"""Flux's way of training on Keras layers, Keras optimisers and the TensorFlow runtime.

A model is something you call, any function is an objective, any iterable is data, and
`train(loss, data, opt, cb=throttle(evalcb, 5))` does the rest. The modules below are imported in
the order in which they build on each other.
"""

import os
import types

_OTHER_BACKEND = (
    "fluxkeras trains through TensorFlow, but Keras is set to another backend, {}. Set the "
    "environment variable KERAS_BACKEND=tensorflow before Keras is imported, or "
    '"backend": "tensorflow" in ~/.keras/keras.json.'
)
try:
    import keras
except ModuleNotFoundError as error:
    _backend = os.environ.get("KERAS_BACKEND", error.name)
    if _backend in ("jax", "torch", "numpy", "openvino"):
        raise ImportError(_OTHER_BACKEND.format(repr(_backend))) from error
    raise
if keras.config.backend() != "tensorflow":
    raise ImportError(_OTHER_BACKEND.format(repr(keras.config.backend())))

from fluxkeras.checks import *
from fluxkeras.activations import *
from fluxkeras.initialisers import *
from fluxkeras.parameters import *
from fluxkeras.layer_losses import *
from fluxkeras.basic_losses import *
from fluxkeras.class_losses import *
from fluxkeras.margin_losses import *
from fluxkeras.keras_losses import *
from fluxkeras.gradients import *
from fluxkeras.optimisers import *
from fluxkeras.adaptive_rules import *
from fluxkeras.adam_rules import *
from fluxkeras.rule_chain import *
from fluxkeras.rule_state import *
from fluxkeras.model_state import *
from fluxkeras.conversions import *
from fluxkeras.onehot_arrays import *
from fluxkeras.array_utilities import *
from fluxkeras.tensor_utilities import *
from fluxkeras.audio import *
from fluxkeras.observations import *
from fluxkeras.views import *
from fluxkeras.data import *
from fluxkeras.triggers import *
from fluxkeras.layers.core import *
from fluxkeras.layers.basic import *
from fluxkeras.layers.containers import *
from fluxkeras.layers.models import *
from fluxkeras.layers.windows import *
from fluxkeras.layers.conv import *
from fluxkeras.layers.pooling import *
from fluxkeras.layers.padding import *
from fluxkeras.layers.resize import *
from fluxkeras.layers.patches import *
from fluxkeras.layers.sampling import *
from fluxkeras.layers.dropout import *
from fluxkeras.layers.normalise import *
from fluxkeras.layers.weight_norm import *
from fluxkeras.layers.cells import *
from fluxkeras.layers.recurrent import *
from fluxkeras.layers.attention import *
from fluxkeras.training.callbacks import *
from fluxkeras.training.rounds import *
from fluxkeras.training.plotting import *
from fluxkeras.training.history import *
from fluxkeras.training.keeping import *
from fluxkeras.training.checkpoint import *
from fluxkeras.training.keras_callbacks import *
from fluxkeras.training.loop import *
from fluxkeras.training.evaluation import *
from fluxkeras.training.tools import *

__version__ = "0.1.0"

# Without the modules: `from fluxkeras import *` leaves the `layers` and `losses` of Keras alone.
__all__ = [
    name
    for name, value in list(globals().items())
    if not name.startswith("_") and not isinstance(value, types.ModuleType)
]
