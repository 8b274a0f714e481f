"""What the tests of a step and of the cache share: one step, run singly."""

from fluxkeras import Chain, Dense, mse
from fluxkeras.training.cache import compiled_for
from fluxkeras.training.feed import feed_of
from fluxkeras.training.history import of_step
from fluxkeras.training.tuner import Request


def model_and_loss():
    model = Chain(Dense(3, 4, "tanh"), Dense(4, 2))
    return model, lambda x, y: mse(model(x), y)


def run(loss, opt, *arguments, model=None):
    """One step, run singly: the loss before the update, and what the objective returned besides."""
    compiled = compiled_for(loss, opt if isinstance(opt, list) else [opt], model)
    feed = feed_of([arguments])
    signature = feed.peek()
    runner = compiled.runner(signature, feed.is_same)
    plan = runner.plan(Request("single"), 0)
    chunk = feed.take(signature, plan.steps, plan.room)
    (outcome,) = runner.run(plan, chunk, lambda: None)
    return outcome.losses[0], of_step(outcome.aux, 0)
