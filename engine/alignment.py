"""Where in its text a recording is, at every frame: forced alignment by the scores of a CTC loss.

    scores of blank and symbols, and the symbols of the text -> the likeliest path (Viterbi)

model.Alignment learns from it. Nothing is marked by hand: the audio autoencoder reads its text with
a CTC loss anyway (autoencoders.AudioVAE.loss), so real clips are aligned like synthetic ones.

Axis letters: S steps of the scores, L symbols of the text, V vocabulary, T latent frames.
"""
import numpy as np

BLANK = 0


def best_path(scores: np.ndarray, ids: list[int]) -> np.ndarray:
    """The likeliest way through a text (Graves et al., 2006).

    scores (S, V): logarithms of probabilities. ids: L symbols, none of them BLANK.

    Returns (S,) states: 2 i + 1 while symbol i is read, 2 i on the blanks before it. ValueError if
    there are too few steps to read every symbol (equal neighbours need a blank between them).
    """
    # Blanks and symbols in turns, beginning and ending with a blank.
    labels = np.full(2 * len(ids) + 1, BLANK)
    labels[1::2] = ids
    emitted = scores[:, labels]                                               # (S, 2 L + 1)
    # A blank may be skipped between two symbols, if these differ.
    skips = np.zeros(len(labels), bool)
    skips[3::2] = labels[3::2] != labels[1:-2:2]
    needed = len(ids) + sum(a == b for a, b in zip(ids, ids[1:]))
    if not ids or len(scores) < needed:
        raise ValueError(f"{len(ids)} symbols can't be spoken in {len(scores)} steps")

    # Forward: the score of the best path to each state, and by how many states it came ahead.
    best = np.full(len(labels), -np.inf)
    best[:2] = emitted[0, :2]
    moves = np.zeros(emitted.shape, int)
    ways = np.full((3, len(labels)), -np.inf)
    everywhere = np.arange(len(labels))
    for step in range(1, len(scores)):
        ways[0] = best
        ways[1, 1:] = best[:-1]
        ways[2, 2:] = np.where(skips[2:], best[:-2], -np.inf)
        moves[step] = ways.argmax(0)
        best = ways[moves[step], everywhere] + emitted[step]

    # Backward, from the last symbol or the blank after it.
    states = np.empty(len(scores), int)
    state = len(labels) - 1 - int(best[-2] > best[-1])
    for step in reversed(range(len(scores))):
        states[step] = state
        state -= moves[step, state]
    return states


def spoken_symbols(scores: np.ndarray, ids: list[int]) -> np.ndarray:
    """How much of a text is spoken by the end of every frame: 0 at its beginning, L at its end.

    scores (2 T, V): of two steps per frame; see `best_path`. Symbol i is half spoken in the middle
    of the steps that read it, and between two of these points the place rises evenly.

    Returns (T,) float32.
    """
    states = best_path(scores, ids)
    middles = [np.flatnonzero(states == 2 * i + 1).mean() + 0.5 for i in range(len(ids))]
    moments = np.concatenate([[0], middles, [len(scores)]])
    spoken = np.concatenate([[0], np.arange(len(ids)) + 0.5, [len(ids)]])
    ends = np.arange(2, len(scores) + 1, 2)
    return np.interp(ends, moments, spoken).astype(np.float32)
