"""The same training in other frameworks, where they are installed: JAX and PyTorch."""

import functools
import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.measure import JIT, PYTORCH, SCAN
from benchmarks.workloads import Data, Workload, mse

RATE, BETA_1, BETA_2, EPSILON = 1e-3, 0.9, 0.999, 1e-7  # of Keras's Adam

Run = Callable[[], Any]


def peers_of(workload: Workload) -> dict[str, tuple[str, Callable[..., Run]]]:
    """What each loop needs, and how it is made."""
    peers: dict[str, tuple[str, Callable[..., Run]]] = {}
    if workload.kind == "mlp":
        peers |= {JIT: ("jax", jax_jit), SCAN: ("jax", jax_scan)}
    if workload.kind in ("mlp", "lenet"):
        peers[PYTORCH] = ("torch", pytorch)
    return peers


def is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def jax_jit(workload: Workload, data: Data) -> Run:
    """A compiled step for each batch."""
    import jax

    step = jax.jit(_jax_step(workload), donate_argnums=0)
    state = _jax_state(workload)

    def run() -> list[float]:
        nonlocal state
        losses = []
        for batch in data.in_numpy():
            state, loss = step(state, batch)
            losses.append(float(loss))
        return losses

    return run


def jax_scan(workload: Workload, data: Data) -> Run:
    """One compiled call for all batches, which lie stacked on the device before time runs."""
    import jax

    step = _jax_step(workload)
    state = _jax_state(workload)
    batches = list(data.in_numpy())
    if data.kind == "repeated":
        length, given = len(batches), jax.device_put(batches[0])
    else:
        length, given = None, jax.device_put(tuple(map(np.stack, zip(*batches, strict=True))))

    @functools.partial(jax.jit, donate_argnums=0)
    def scan(state: Any, given: Any) -> Any:
        if length is None:
            return jax.lax.scan(step, state, given)
        return jax.lax.scan(lambda state, _: step(state, given), state, length=length)

    def run() -> list[float]:
        nonlocal state
        state, losses = scan(state, given)
        return list(np.asarray(losses))

    return run


def _jax_state(workload: Workload) -> Any:
    import jax

    weights = jax.device_put(workload.model().get_weights())
    zeros = jax.tree.map(lambda w: w * 0, weights)
    return weights, zeros, jax.tree.map(lambda w: w * 0, weights), 0


def _jax_step(workload: Workload) -> Callable[[Any, Any], Any]:
    """A step of an MLP and Adam, `(state, batch) -> (state, loss)`."""
    import jax
    import jax.numpy as jnp

    def objective(weights: list[Any], x: Any, y: Any) -> Any:
        *hidden, (w, b) = zip(weights[::2], weights[1::2], strict=True)
        for hidden_w, hidden_b in hidden:
            x = getattr(jax.nn, workload.activation)(x @ hidden_w + hidden_b)
        logits = x @ w + b
        if workload.loss is mse:
            return jnp.mean((jax.nn.softmax(logits) - y) ** 2)
        return -jnp.mean(jnp.sum(y * jax.nn.log_softmax(logits), -1))

    def step(state: Any, batch: Any) -> Any:
        weights, m, v, t = state
        loss, gradient = jax.value_and_grad(objective)(weights, *batch)
        t = t + 1
        rate = RATE * jnp.sqrt(1 - BETA_2**t) / (1 - BETA_1**t)
        m = jax.tree.map(lambda m, g: m + (g - m) * (1 - BETA_1), m, gradient)
        v = jax.tree.map(lambda v, g: v + (g * g - v) * (1 - BETA_2), v, gradient)
        weights = jax.tree.map(
            lambda w, m, v: w - rate * m / (jnp.sqrt(v) + EPSILON), weights, m, v
        )
        return (weights, m, v, t), loss

    return step


def pytorch(workload: Workload, data: Data) -> Run:
    """Eager, as PyTorch is used."""
    import torch

    model = _torch_model(workload)
    opt = torch.optim.Adam(model.parameters(), RATE, (BETA_1, BETA_2), EPSILON)
    functional = torch.nn.functional
    loss_of = functional.mse_loss if workload.loss is mse else functional.cross_entropy

    def run() -> list[float]:
        losses = []
        for x, y in data.in_numpy():
            opt.zero_grad()
            loss = loss_of(model(torch.from_numpy(x)), torch.from_numpy(y))
            loss.backward()
            opt.step()
            losses.append(loss.item())
        return losses

    warnings.filterwarnings("ignore", "The given NumPy array is not writable")
    return run


def _torch_model(workload: Workload) -> Any:
    from torch import nn

    if workload.kind == "lenet":
        layers = [
            *(nn.Flatten(2), nn.Unflatten(1, (1, 28))),  # the one channel goes first
            *(nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
            nn.Flatten(),
            *(nn.Linear(256, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
        ]
    else:
        activation = {"sigmoid": nn.Sigmoid, "relu": nn.ReLU}[workload.activation]
        layers = []
        for size, next_size in zip(workload.sizes, workload.sizes[1:], strict=False):
            layers += [nn.Linear(size, next_size), activation()]
        layers[-1:] = [nn.Softmax(-1)] if workload.loss is mse else []
    model = nn.Sequential(*layers)
    _copy_weights(workload.model().get_weights(), model)
    return model


def _copy_weights(weights: list[np.ndarray], model: Any) -> None:
    """Give PyTorch's layers, which put channels first, the weights of Keras's."""
    import torch

    before = None
    for theirs, ours in zip(model.parameters(), weights, strict=True):
        if ours.ndim == 2 and before is not None and before.ndim == 4:
            filters = before.shape[-1]  # the first layer after the flattened images
            side = int((len(ours) // filters) ** 0.5)
            ours = ours.reshape(side, side, filters, -1).transpose(2, 0, 1, 3).reshape(ours.shape)
        theirs.data = torch.tensor(ours.transpose(3, 2, 0, 1) if ours.ndim == 4 else ours.T)
        before = ours if ours.ndim > 1 else before
