"""A small GPT: attention to the characters before tells the next, and then writes some text.

The text is that of `char_rnn.py`, the Python reference that Python itself brings along; its last
tenth is held out. Blocks of causal attention and a perceptron, each normalised first and skipped
past, as in GPT-2 (Radford et al., 2019). Reaches 2.08 bits a character of unseen text, where the
last character alone gives 3.45, in about two minutes on two busy cores.
"""

import sys
from pydoc_data.topics import topics

import keras
import numpy as np
import tensorflow as tf

from fluxkeras import (
    Adam,
    Chain,
    DataLoader,
    Dense,
    Embedding,
    LayerNorm,
    MultiHeadAttention,
    SkipConnection,
    epochs,
    gelu,
    logitcrossentropy,
    param,
    slidingwindow,
    softmax,
    train,
)

LENGTH, WIDTH, HEADS, BLOCKS = 64, 64, 4, 3
EPOCHS, PART, BOUND = (1, 0.7, 3.4) if "--quick" in sys.argv else (8, 1, 2.3)

keras.utils.set_random_seed(0)

paragraphs = "\n\n".join(topics.values()).split("\n\n")
text = "\n\n".join(dict.fromkeys(paragraphs))  # each once: topics share some
alphabet, codes = np.unique(list(text), return_inverse=True)
known, unseen = np.split(codes, [len(codes) * 9 // 10])
known = known[: int(PART * len(known))]


def windows(codes):
    """Runs of so many characters, each followed by one, which is the first of the next run."""
    return slidingwindow(codes, size=LENGTH + 1, stride=LENGTH)


places = param(0.5 * np.random.normal(size=(LENGTH, WIDTH)))


def with_places(x):
    """Adds to each character a vector of its place in the run, which is learnt."""
    return x + places[: tf.shape(x)[-2]]


def block():
    """Attention of each character to itself and to those before it, and a perceptron."""
    attention = MultiHeadAttention(WIDTH, nheads=HEADS)
    perceptron = Dense(WIDTH, 4 * WIDTH, gelu), Dense(4 * WIDTH, WIDTH)
    return Chain(
        SkipConnection(Chain(LayerNorm(WIDTH), lambda x: attention(x, mask="causal")[0]), tf.add),
        SkipConnection(Chain(LayerNorm(WIDTH), *perceptron), tf.add),
    )


m = Chain(
    Embedding(len(alphabet), WIDTH),
    with_places,
    *[block() for _ in range(BLOCKS)],
    LayerNorm(WIDTH),
    Dense(WIDTH, len(alphabet)),
)


def loss(window):
    """The bits that a character takes to tell, given those before it."""
    following = tf.one_hot(window[:, 1:], len(alphabet))
    return logitcrossentropy(m(window[:, :-1]), following) / np.log(2)


def bits():
    return float(loss(windows(unseen)))


def bits_of_pairs():
    """The bits that it takes if only the last character is known."""
    pairs = np.full((len(alphabet), len(alphabet)), 0.1)
    np.add.at(pairs, (known[:-1], known[1:]), 1)
    probability = pairs / pairs.sum(1, keepdims=True)
    return float(np.mean(-np.log2(probability[unseen[:-1], unseen[1:]])))


data = DataLoader(windows(known), 16, shuffle=True)
opt = Adam(3e-3)
for _ in epochs(EPOCHS):
    losses = train(loss, data, opt, progress=False).losses
    print(f"bits a character: {losses.mean():.2f}, of unseen text {bits():.2f}")

predict = tf.function(m)
written = list(unseen[:LENGTH])
for _ in range(300):
    probabilities = softmax(predict(tf.constant(written[-LENGTH:]))[-1])
    written.append(np.random.choice(len(alphabet), p=probabilities.numpy() / np.sum(probabilities)))
print("".join(alphabet[written]))

print(f"of unseen text {bits():.2f}, from the last character alone {bits_of_pairs():.2f}")
assert bits() < BOUND < bits_of_pairs()
