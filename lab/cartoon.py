"""The synthetic speakers: their words, voices and cartoon faces. data.SyntheticCorpus makes clips
of them, and a first reading can skip how.

One articulatory trajectory per utterance (per phone: formants, voicing, frication, jaw, width and
closure of the lips, tongue and teeth, smoothed for coarticulation) drives both a source-filter
synthesizer and a face renderer. So speech and face share their cause, as the paper supposes, and
the ground truth is known for every frame. Pure numpy, vectorised: 2.5 s take some 20 ms.

    phones and marks -> articulate -> tracks (8 T,) at 200 Hz
    tracks -> synthesize -> speech (n,) float32
    tracks -> move_face  -> face controls (T,) at 25 Hz -> render -> video (T, S, S, 3)

Axis letters: T video frames, n audio samples, S side of the picture.
"""
import colorsys
from dataclasses import dataclass

import numpy as np

from english.sentences import FUNCTION_WORDS
from english.text import lexicon
from model import FPS

VERSION = 2             # raise it whenever the clips change: cached clips and latents are made anew
SHORTEST_CLIP = 600     # ms
CONTROL_RATE = 200      # values of an articulatory track per second: 8 per video frame


# ---------------------------------------------------------------------------- words and phones
# Function words hold a sentence together; they are spoken fast and without an accent. They are
# known by their phones alone, so "two" passes for "to".
UNSTRESSED = {lexicon()[word] for word in FUNCTION_WORDS}

# Lengths of the pauses at the marks within a text, shortest and longest in 100 ms, and what the
# pitch does on the last syllable before each, in semitones.
PAUSES = {",": (1.2, 3.0), ".": (3.0, 6.0), "?": (3.0, 6.0)}
FINALS = {",": 0, ".": -4, "?": 5}

# A phone is a sequence of one or more segments, a row of the tables each:
#
#   duration in ms; three formants in Hz; strengths of voicing, aspiration and frication; centre and
#   width of the frication's spectrum in Hz; nasality, and the dip in Hz that it makes in the
#   spectrum; opening of the jaw (1 wide open); width of the lips (-1 rounded, 1 spread) and their
#   closure; tongue, how far its tip shows between or behind the teeth; teeth, how far they are
#   closed and bared. A dominance says how firmly a segment keeps its formants, or its lips, against
#   its neighbours (coarticulation).
COLUMNS = ("duration formant1 formant2 formant3 formant_dominance voicing aspiration frication "
           "frication_centre frication_width nasality dip jaw width closure lip_dominance tongue "
           "teeth").split()

# Vowels differ in duration, formants, jaw and width alone; VOWEL_SOURCE holds what they share.
# AX is the AH of an unstressed syllable.
# phone  ms   F1    F2    F3   jaw  width
VOWELS = """
  IY    100  290  2280  2950  0.25    0.9
  IH     75  410  2000  2600  0.35    0.5
  EH     90  560  1820  2550   0.6    0.4
  AE    120  670  1730  2450  0.85    0.5
  AA    120  740  1150  2500     1    0.1
  AO    115  600   900  2450   0.7   -0.6
  AH     80  630  1200  2450   0.6    0.1
  AX     55  500  1400  2450   0.4    0.1
  UH     75  450  1050  2300  0.35   -0.5
  UW    100  320  1050  2250  0.25     -1
  ER    100  480  1320  1650  0.35   -0.4
  EY     60  480  1950  2600   0.5    0.5
  EY     60  330  2220  2850  0.25    0.8
  AY     75  740  1250  2500     1    0.2
  AY     65  400  2050  2650   0.3    0.7
  AW     75  740  1300  2500     1    0.1
  AW     65  430   950  2350   0.3   -0.8
  OW     65  530  1050  2400   0.6   -0.5
  OW     55  400   870  2350   0.3     -1
  OY     75  560   850  2400   0.6   -0.7
  OY     65  380  2000  2600   0.3    0.6
"""

VOWEL_SOURCE = [1, 1, 0, 0, 3000, 2000, 0, 1500]        # formant_dominance to dip
VOWEL_LIPS = [0, 1, 0, 0]                               # closure to teeth

# phone ms   F1   F2   F3  dom voic  asp fric cent  wid nas  dip  jaw width clos  dom tong teeth
CONSONANTS = """
  SIL  100  500 1500 2500 0.05    0    0    0 3000 2000   0 1500 0.05     0  0.9  0.6    0     0
  HH    60  500 1500 2500 0.05    0  0.6    0 3000 2000   0 1500  0.4     0    0  0.1    0     0
  W     60  300  640 2200  1.5  0.6    0    0 3000 2000   0 1500 0.15    -1  0.1    2    0     0
  Y     50  270 2300 3050  1.5  0.6    0    0 3000 2000   0 1500  0.2   0.7    0    1    0     0
  R     60  340 1150 1500  1.5  0.6    0    0 3000 2000   0 1500 0.25  -0.5    0    1    0     0
  L     60  350 1000 2700  1.5  0.6    0    0 3000 2000   0 1500  0.4   0.1    0  0.5  0.7     0
  M     70  260  900 2100  1.5 0.35    0    0 3000 2000   1  800 0.15     0    1    4    0     0
  N     60  270 1700 2600  1.5 0.35    0    0 3000 2000   1 1700 0.25   0.2    0  0.5  0.5     0
  NG    75  270 2100 2600  1.5 0.35    0    0 3000 2000   1 3000  0.3   0.1    0  0.3    0     0
  B     50  220  700 2150    2  0.1    0    0  700  600   0 1500 0.15     0    1    4    0     0
  B     12  300  900 2250    1  0.3    0  0.4  700  700   0 1500  0.2     0  0.4    1    0     0
  D     42  220 1800 2750  1.5  0.1    0    0 4200 1200   0 1500 0.25   0.2    0  0.5  0.5     0
  D     14  300 1800 2700    1  0.3    0  0.5 4200 1200   0 1500 0.25   0.2    0  0.3  0.5     0
  G     45  220 2050 2300  1.5  0.1    0    0 2100  600   0 1500  0.3   0.1    0  0.3    0     0
  G     24  300 2050 2350  1.5 0.25    0  0.8 2100  600   0 1500  0.3   0.1    0  0.3    0     0
  P     55  220  700 2150    2    0    0    0  700  600   0 1500 0.15     0    1    4    0     0
  P     14  350  900 2250    1    0  0.3  0.5  800  800   0 1500  0.2     0  0.4    1    0     0
  P     30  450 1300 2400  0.1    0  0.6    0  800  800   0 1500  0.3     0    0  0.2    0     0
  T     45  220 1800 2750    1    0    0    0 4500 1300   0 1500 0.25   0.2    0  0.5  0.5     0
  T     15  350 1800 2700    1    0  0.2  0.9 4500 1300   0 1500 0.25   0.2    0  0.3  0.5     0
  T     30  400 1800 2600  0.1    0  0.4 0.35 4500 1500   0 1500  0.3   0.2    0  0.2  0.3     0
  K     50  220 2000 2400    1    0    0    0 2100  600   0 1500  0.3   0.1    0  0.3    0     0
  K     20  350 2000 2400    1    0  0.2  0.9 2100  600   0 1500  0.3   0.1    0  0.3    0     0
  K     30  400 1800 2500  0.1    0  0.6    0 2100  600   0 1500  0.3   0.1    0  0.2    0     0
  F    100  300 1100 2200    1    0 0.03 0.25 6000 4000   0 1500  0.2   0.1 0.75    3    0   0.6
  V     60  280 1100 2200    1 0.45    0  0.1 6000 4000   0 1500  0.2   0.1 0.75    3    0   0.6
  TH    85  300 1400 2600    1    0 0.03 0.14 6500 3500   0 1500  0.3   0.2    0  0.7    1     0
  DH    40  280 1400 2600    1  0.5    0 0.08 6500 3500   0 1500  0.3   0.2    0  0.7    1     0
  S    100  300 1750 2700    1    0    0  0.8 6000 1300   0 1500 0.15   0.4    0    1    0     1
  Z     75  270 1750 2700    1 0.35    0  0.5 6000 1300   0 1500 0.15   0.4    0    1    0     1
  SH   105  300 1900 2600    1    0  0.1  0.8 3300 1000   0 1500  0.2  -0.4    0    1    0     1
  ZH    75  280 1900 2600    1 0.35    0  0.6 3300 1000   0 1500  0.2  -0.4    0    1    0     1
  CH    50  250 1900 2600    1    0    0    0 3300 1000   0 1500 0.15  -0.3    0    1  0.3     1
  CH    70  300 1900 2600    1    0  0.1  0.8 3300 1000   0 1500  0.2  -0.4    0    1    0     1
  JH    45  230 1900 2600    1  0.1    0    0 3300 1000   0 1500 0.15  -0.3    0    1  0.3     1
  JH    50  280 1900 2600    1 0.35    0  0.6 3300 1000   0 1500  0.2  -0.4    0    1    0     1
"""

PHONES = {}             # phone -> its segments, each a list of numbers in the order of COLUMNS
for entry in VOWELS.strip().splitlines():
    phone, *row = entry.split()
    row = [float(value) for value in row]
    row = row[:4] + VOWEL_SOURCE + row[4:] + VOWEL_LIPS
    PHONES.setdefault(phone, []).append(row)
VOWEL_PHONES = set(PHONES)
for entry in CONSONANTS.strip().splitlines():
    phone, *row = entry.split()
    PHONES.setdefault(phone, []).append([float(value) for value in row])

# Each track glides from segment to segment: the standard deviation in ms of the Gaussian that
# smooths it. Lips and jaw are heavier than the tongue, so they move more slowly.
SMOOTHING = dict(formant1=20, formant2=24, formant3=24, voicing=8, aspiration=7, frication=4,
                 frication_centre=6, frication_width=6, nasality=8, dip=8, jaw=38, width=42,
                 closure=24, tongue=24, teeth=24)


# ------------------------------------------------------------------------------------ speakers
def make_speaker(number: int) -> dict:
    """Voice and looks of a speaker, the same in every corpus. Lengths of the face are in half
    sides of the picture, roughly."""
    # NOTE: the order of the draws decides what every speaker sounds and looks like.
    rng = np.random.default_rng([VERSION, number])
    draw = rng.uniform

    def colour(hue, saturation, value):
        return np.array(colorsys.hsv_to_rgb(draw(*hue), draw(*saturation), draw(*value)))

    # Height, 0 to 1: from a low voice in a long vocal tract to a high voice in a short one. It
    # scales the formants by `tract`.
    height = draw()
    tone = draw()                                       # of the skin, light to dark
    redness = draw(0.75, 1.15)                          # of the lips
    light, dark = np.array([0.98, 0.84, 0.72]), np.array([0.42, 0.27, 0.19])

    return dict(
        # The voice: pitch in Hz, scale of the formants, share of aspiration, stretch of durations,
        # cut-off of the glottal pulse's spectrum.
        pitch=95 * 2 ** (1.1 * height + draw(-0.15, 0.15)),
        tract=0.95 + 0.2 * height + draw(-0.02, 0.02),
        breathiness=draw(0.01, 0.06),
        rate=draw(0.92, 1.1),
        brightness=draw(0.8, 1.2),
        # Colours, RGB from 0 to 1.
        skin=(1 - tone) * light + tone * dark,
        lip=np.array([0.75, 0.3, 0.32]) * redness,
        hair=colour((0, 0.12), (0.2, 0.8), (0.08, 0.7)),
        wall=colour((0, 1), (0.2, 0.6), (0.4, 0.88)),
        shirt=colour((0, 1), (0.3, 0.8), (0.2, 0.9)),
        iris=colour((0, 1), (0.5, 0.7), (0.15, 0.5)),
        # Shapes.
        face_width=draw(0.5, 0.6),
        face_height=draw(0.66, 0.76),
        fringe=draw(0.3, 0.55),
        hair_length=draw(),
        nose=draw(0.03, 0.06),
        mouth_width=draw(0.22, 0.29),
        lip_thickness=draw(0.035, 0.075),
        eye_distance=draw(0.2, 0.26),
        eye_size=draw(0.075, 0.1),
        brow=draw(0.02, 0.045))


# -------------------------------------------------------------------------------- articulation
def smooth(values: np.ndarray, milliseconds: float) -> np.ndarray:
    """Convolve a track (8 T,) with a Gaussian of this standard deviation."""
    deviation = milliseconds / 1000 * CONTROL_RATE
    reach = int(4 * deviation) + 1
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)
    return np.convolve(np.pad(values, reach, mode="edge"), kernel / kernel.sum(), "valid")


def drift(rng, seconds: np.ndarray, frequencies: tuple) -> np.ndarray:
    """A slow random movement at these times: a sum of sinusoids of random phase and size."""
    return sum(rng.normal() * np.sin(2 * np.pi * frequency * seconds + rng.uniform(0, 2 * np.pi))
               for frequency in frequencies)


@dataclass
class Spoken:
    """A phone, or a silence, of an utterance."""
    phone: str
    stretch: float          # of the durations in the tables; a silence of stretch 1 lasts 100 ms
    loudness: float = 1
    accent: float = 0       # height in semitones of the pitch's bump on it
    ending: str = ""        # the mark (PAUSES) of the phrase whose last syllable it belongs to


def read_words(symbols: list[str]) -> list[tuple[list[str], str]]:
    """Phones and marks -> words, as (phones, the mark that follows: " ", or one of PAUSES)."""
    words = []
    phones = []
    for symbol in [*symbols, " "]:
        if symbol in PHONES:
            phones.append(symbol)
            continue
        if symbol != " " and symbol not in PAUSES:
            raise ValueError(f"neither a phone nor a mark: {symbol!r}")
        if phones:
            words.append((phones, symbol))
        elif words and symbol != " ":                   # the last mark is the one that counts
            words[-1] = (words[-1][0], symbol)
        phones = []
    if words and words[-1][1] not in PAUSES:
        words[-1] = (words[-1][0], ".")
    return words


def stressed_vowel(phones: list[str]) -> int:
    """The place of the vowel that carries the accent of a word, -1 without vowels."""
    vowels = [place for place, phone in enumerate(phones) if phone in VOWEL_PHONES]
    strong = [place for place in vowels if phones[place] not in ("AH", "IH", "ER")]
    return (strong or vowels or [-1])[0]


def speak_word(phones: list[str], mark: str, stretch: float, rng) -> list[Spoken]:
    """A word with its durations, loudness and accent."""
    accent = rng.uniform(2, 3)                          # drawn always, for the order of the draws
    stressed = stressed_vowel(phones)
    content = tuple(phones) not in UNSTRESSED
    vowels = [place for place, phone in enumerate(phones) if phone in VOWEL_PHONES]
    last_vowel = max(vowels, default=0)

    spoken = []
    for place, phone in enumerate(phones):
        item = Spoken(phone, stretch)
        if content and place == stressed:
            item = Spoken(phone, stretch * 1.15, 1.1, accent)
        elif phone == "AH" and (not content or phones[stressed] != "AH"):
            item = Spoken("AX", stretch, 0.85)
        elif phone in VOWEL_PHONES:
            item = Spoken(phone, stretch * 0.9, 0.9)
        if not content:
            item.stretch *= 0.8
        if mark in PAUSES and place >= last_vowel:      # a phrase's last syllable is long
            item.stretch *= 1.3
            item.ending = mark
        spoken.append(item)
    return spoken


def speak(symbols: list[str], speaker: dict, rng, free=False) -> list[Spoken]:
    """All phones and silences of an utterance. free: each word is .7 to 1.4 times as long, and up
    to 220 ms of silence stand between any two, so that the text does not tell the timing."""
    words = read_words(symbols)
    rate = speaker["rate"] * rng.uniform(0.85, 1.2)
    spoken = [Spoken("SIL", rng.uniform(0.6, 2.0))]
    for phones, mark in words:
        stretch = rate * rng.uniform(0.95, 1.05)
        if free:
            stretch *= rng.uniform(0.7, 1.4)
        spoken += speak_word(phones, mark, stretch, rng)
        hesitates, pause = rng.uniform(size=2)
        if mark in PAUSES:
            shortest, longest = PAUSES[mark]
            spoken.append(Spoken("SIL", shortest + (longest - shortest) * pause))
        elif free:
            spoken.append(Spoken("SIL", 2.2 * pause))
        elif hesitates < 0.15:
            spoken.append(Spoken("SIL", 0.6 * pause))
    spoken[-1] = Spoken("SIL", rng.uniform(0.8, 2.4))   # the last pause ends the clip
    return spoken


def intone(spoken: list[Spoken], ends: np.ndarray, steps: int, rng) -> np.ndarray:
    """The melody (8 T,) in octaves above the speaker's pitch. ends: of the phones, in ms."""
    times = (np.arange(steps) + 0.5) * 1000 / CONTROL_RATE
    octaves = 0.025 * drift(rng, times / 1000, (0.3, 0.7, 1.3))
    liveliness = rng.uniform(0.7, 1.3)
    starts = np.concatenate([[0], ends[:-1]])

    # The bump of each accent, about the middle of its vowel.
    for item, start, end in zip(spoken, starts, ends):
        bump = np.exp(-0.5 * ((times - (start + end) / 2) / 80) ** 2)
        octaves += liveliness * item.accent / 12 * bump

    # Each phrase falls from its beginning to its pause, and moves once more on its last syllable.
    began = 0
    syllable = None                                     # where the phrase's last one starts
    for item, start, end in zip(spoken, starts, ends):
        if item.ending and syllable is None:
            syllable = start
            final = FINALS[item.ending] / 12
        elif item.phone == "SIL" and syllable is not None:
            inside = (times >= began) & (times < end)
            along = np.clip((times - began) / (start - began), 0, 1)
            finishing = np.clip((times - syllable) / (start - syllable), 0, 1)
            octaves += inside * (liveliness * (0.1 - 0.25 * along) + final * finishing)
            began = end
            syllable = None
    return octaves


def articulate(symbols: list[str], speaker: dict, rng, free=False) -> dict[str, np.ndarray]:
    """ARPAbet phones and marks -> tracks, each (8 T,) float32 at 200 Hz for a whole number T of
    frames: those of SMOOTHING, and pitch in Hz. The marks: " " between words, "," for a short
    pause, "." for a long one, "?" for the end of a question. free: see `speak`."""
    spoken = speak(symbols, speaker, rng, free)

    # The phones become segments, and the segments have their places in time, in ms.
    counts = [len(PHONES[item.phone]) for item in spoken]
    segments = np.concatenate([PHONES[item.phone] for item in spoken])      # (segments, columns)
    stretches = np.repeat([item.stretch for item in spoken], counts)
    loudness = np.repeat([item.loudness for item in spoken], counts)
    segments[:, COLUMNS.index("voicing")] *= loudness
    ends = np.cumsum(segments[:, 0] * stretches)
    ends[-1] = max(ends[-1], SHORTEST_CLIP)             # more silence after a short word
    steps = int(np.ceil(ends[-1] / 1000 * FPS)) * CONTROL_RATE // FPS

    # What is articulated at each step: piecewise constant.
    middle = (np.arange(steps) + 0.5) * 1000 / CONTROL_RATE
    active = np.searchsorted(ends, middle).clip(max=len(ends) - 1)
    held = dict(zip(COLUMNS, segments[active].T))       # name -> (8 T,)

    # Coarticulation: a smoothed mean of the neighbouring segments, weighted by their dominance.
    tracks = {}
    for name, milliseconds in SMOOTHING.items():
        dominance = np.ones(steps)
        if name.startswith("formant"):
            dominance = held["formant_dominance"]
        elif name in ("jaw", "width", "closure"):
            dominance = held["lip_dominance"]
        weighted = smooth(held[name] * dominance, milliseconds)
        tracks[name] = weighted / smooth(dominance, milliseconds)

    octaves = intone(spoken, ends[np.cumsum(counts) - 1], steps, rng)
    tracks["pitch"] = speaker["pitch"] * 2 ** smooth(octaves, 15)
    return {name: track.astype(np.float32) for name, track in tracks.items()}


# --------------------------------------------------------------------------------------- speech
def synthesize(tracks: dict, speaker: dict, sample_rate: int, rng) -> np.ndarray:
    """Tracks -> speech (n,) float32 in [-1, 1], with n samples in exactly T frames.

    A source of pulses and noise passes through filters that change every 10 ms, as a product of
    spectra (rows, bins). Windows of 20 ms overlap by half and are added up again."""
    steps = len(tracks["pitch"])
    hop = sample_rate // 100                            # samples in 10 ms, two steps of a track
    samples = steps * hop // 2
    rows = steps // 2 + 1
    width = 4 * hop                 # of a spectrum: a window of 2 hops, and 2 for filters to decay

    def per_sample(track):
        """(8 T,) -> (n,), linearly interpolated."""
        ramp = np.arange(hop // 2, dtype=np.float32) / (hop // 2)
        slope = np.diff(track, append=track[-1])
        return (track[:, None] + slope[:, None] * ramp).ravel()

    def spectra(signal):
        """(n,) -> (rows, bins)."""
        window = np.hanning(2 * hop + 1)[:-1].astype(np.float32)
        padded = np.pad(signal, hop)
        windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * hop)[::hop]
        return np.fft.rfft(windows * window, width)

    # The voice: one pulse per period, with a little jitter. A pulse lies between two samples and is
    # shared by them, since rounding its place would be heard as roughness.
    jitter = (1 + 0.01 * rng.normal(size=steps)).astype(np.float32)
    pitch = per_sample(tracks["pitch"] * jitter)
    cycles = np.cumsum(pitch / sample_rate, dtype=np.float64)
    start = np.flatnonzero(np.diff(np.floor(cycles)) > 0) + 1
    late = (cycles[start] % 1) / (cycles[start] - cycles[start - 1])
    pulses = np.zeros(samples, np.float32)
    pulses[start] = (1 - late) * np.sqrt(120 / pitch[start])
    pulses[start - 1] += late * np.sqrt(120 / pitch[start])

    # The voice, with a little breath in it.
    noise = rng.standard_normal(samples, dtype=np.float32)
    breath = 1.2 * speaker["breathiness"] * noise
    source = spectra(per_sample(tracks["voicing"]) * (25 * pulses + breath))

    # The tracks at the centre of each window, (rows, 1).
    at = np.minimum(2 * np.arange(rows), steps - 1)
    now = {name: track[at, None] for name, track in tracks.items()}
    hertz = np.fft.rfftfreq(width, 1 / sample_rate).astype(np.float32)
    delay = np.exp(-2j * np.pi * hertz / sample_rate).astype(np.complex64)
    delay2 = delay * delay
    tract = np.float32(speaker["tract"])
    nasality = now["nasality"]

    def resonance(frequency, bandwidth):
        """Frequency response (rows, bins) of a filter with two poles; its gain at 0 Hz is 1."""
        radius = np.exp(-np.pi / sample_rate * np.float32(bandwidth))
        cosine = 2 * radius * np.cos(2 * np.pi / sample_rate * frequency)
        return (1 - cosine + radius ** 2) / (1 - cosine * delay + radius ** 2 * delay2)

    # The filters: the glottal pulse with the higher formants, which are fixed; a dip in the
    # spectrum of nasals; and a resonance for each of the three formants that move.
    glottis = (1j * hertz / 100) / (1 + 1j * hertz / (110 * speaker["brightness"])) ** 2
    hiss = 0.16 * (1j * hertz / 500) / (1 + 1j * hertz / 500)
    for frequency, bandwidth in ((3500, 280), (4500, 350), (5500, 490), (6500, 630), (7500, 840)):
        glottis = glottis * resonance(tract * frequency, bandwidth)
        hiss = hiss * resonance(tract * frequency, bandwidth)
    hiss = hiss.astype(np.complex64)
    source *= glottis.astype(np.complex64)

    # Aspiration is noise from the glottis, with more treble than the voice. Few windows have any.
    some = np.flatnonzero(now["aspiration"][:, 0] > 1e-3)
    source[some] += spectra(per_sample(tracks["aspiration"]) * noise)[some] * hiss
    source *= 1 - 0.9 * nasality * np.exp(-((hertz - now["dip"]) / 350) ** 2)
    for name, narrow, nasal in (("formant1", 60, 80), ("formant2", 90, 100), ("formant3", 130, 60)):
        source *= resonance(tract * now[name], narrow + nasal * nasality)

    # Frication is made at the teeth, so it does not pass the formants. Few windows have any.
    some = np.flatnonzero(now["frication"][:, 0] > 1e-3)
    frication = spectra(0.6 * per_sample(tracks["frication"]) * noise)[some]
    distance = (hertz - now["frication_centre"][some]) / now["frication_width"][some]
    source[some] += frication * np.exp(-0.5 * distance ** 2)

    # Back to samples: each row is four hops long, and the rows overlap and add.
    pieces = np.fft.irfft(source, width).reshape(rows, 4, hop)
    speech = np.zeros((rows + 3, hop), np.float32)
    for part in range(4):
        speech[part:part + rows] += pieces[:, part]
    speech = speech.ravel()[hop:hop + samples]          # window 0 is centred on sample 0

    # All clips are equally loud, with a little noise in the silences.
    speech = speech * (0.08 / np.sqrt(np.mean(speech ** 2))) + 0.0008 * noise
    return np.clip(speech, -1, 1)


# ----------------------------------------------------------------------------------------- face
def move_face(tracks: dict, rng) -> dict[str, np.ndarray]:
    """Tracks -> face controls, each (T,) float32: what speech moves, and what moves at random.

    | control     | unit                                                                        |
    |-------------|-----------------------------------------------------------------------------|
    | opening     | of the mouth, 0 shut to 1 wide open                                         |
    | jaw         | opening of the jaw, also behind closed lips                                 |
    | width       | of the lips, -1 rounded to 1 spread                                         |
    | tongue      | how far its tip rises to the upper teeth, 0 to 1                            |
    | teeth       | how far they are closed and bared, 0 to 1                                   |
    | blink       | 0 eyes open to 1 shut                                                       |
    | right, down | place of the head, in half sides of the picture                             |
    | tilt        | of the head, radians, clockwise                                             |
    | zoom        | size of the head, 1 on average                                              |
    | brow        | how far the brows are raised                                                |
    | gaze        | of both eyes, to the right                                                  |
    """
    def per_frame(track):
        """(8 T,) -> means (T,)."""
        return track.reshape(-1, CONTROL_RATE // FPS).mean(1)

    jaw = per_frame(tracks["jaw"])
    closure = np.clip(per_frame(tracks["closure"]), 0, 1)
    teeth = per_frame(tracks["teeth"])                  # the lips part to bare closed teeth
    emphasis = np.convolve(per_frame(tracks["voicing"]), np.ones(3) / 3, "same")
    seconds = np.arange(len(jaw)) / FPS
    blinks = np.cumsum(rng.uniform(0.4, 2.2, 6))        # their times in seconds

    # NOTE: the order of the draws is the order of these lines.
    controls = dict(
        opening=np.maximum(jaw, 0.3 * teeth) * (1 - closure),
        jaw=jaw,
        width=per_frame(tracks["width"]),
        tongue=per_frame(tracks["tongue"]),
        teeth=teeth,
        blink=np.exp(-((seconds[:, None] - blinks) / 0.06) ** 2).max(1),
        right=0.018 * drift(rng, seconds, (0.2, 0.5)),
        down=0.01 * drift(rng, seconds, (0.25, 0.6)) + 0.015 * emphasis,
        tilt=0.02 * drift(rng, seconds, (0.2, 0.45)),
        zoom=1 + 0.014 * drift(rng, seconds, (0.15, 0.4)),
        brow=0.5 * emphasis + 0.3 * drift(rng, seconds, (0.3,)),
        gaze=0.2 * drift(rng, seconds, (0.2, 0.5)))
    return {name: control.astype(np.float32) for name, control in controls.items()}


class Canvas:
    """The pictures of a clip, painted shape by shape from back to front, all T frames at once.

    Shapes are described in head coordinates x, y (rightwards and downwards, the unit some half a
    side of the picture), which move with the head. Their edges are soft: alpha, 0 to 1, is the
    share of a pixel that lies inside.
    """

    def __init__(self, controls: dict, size: int, wall: np.ndarray):
        self.face = {name: control[:, None, None] for name, control in controls.items()}
        self.size = size
        self.enlarge = 1.12 * self.face["zoom"]                               # (T, 1, 1)
        self.sharpness = np.float32(1.12 * size / 2)            # pixels in a unit of the head
        self.cosine = np.cos(self.face["tilt"])                               # (T, 1, 1)
        self.sine = np.sin(self.face["tilt"])

        # Pixels in half sides from the centre of the picture, and from that of the head.
        self.grid = (np.arange(size, dtype=np.float32) + 0.5) * 2 / size - 1  # (S,)
        self.across = self.grid[None, None, :] - self.face["right"]           # (T, 1, S)
        self.along = self.grid[None, :, None] - self.face["down"] - np.float32(0.02)  # (T, S, 1)

        # A plane for each colour. Values carry + 0.5, since the last cast rounds down.
        self.planes = np.empty((3, len(controls["jaw"]), size, size), np.float32)
        for plane, value in zip(self.planes, wall):
            rows = (255 * value * (1 - 0.12 * self.grid) + 0.5).astype(np.float32)
            plane[:] = rows[:, None]

    def region(self, left, right, top, bottom):
        """The pixels that a rectangle of the head reaches in any frame, as an index of the planes,
        and their head coordinates x, y (T, rows, columns). Painting there alone saves most of the
        time."""
        # Where the four corners go.
        x = np.float32([left, right, left, right])
        y = np.float32([top, top, bottom, bottom])
        columns = (x * self.cosine - y * self.sine) * self.enlarge + self.face["right"]
        rows = (x * self.sine + y * self.cosine) * self.enlarge + self.face["down"] + 0.02

        def pixels(edge):
            first = int((edge.min() + 1) * self.size / 2 - 1)
            last = int((edge.max() + 1) * self.size / 2 + 2)
            return slice(max(0, first), max(0, last))

        # And where the pixels between them come from.
        rows, columns = pixels(rows), pixels(columns)
        across, along = self.across[..., columns], self.along[:, rows]
        cosine, sine = self.cosine / self.enlarge, self.sine / self.enlarge
        x = across * cosine + along * sine                                    # (T, rows, columns)
        y = along * cosine - across * sine
        return (slice(None), rows, columns), x, y

    def soft(self, distance):
        """Signed distance to an edge, positive inside -> alpha."""
        return np.clip(distance * self.sharpness + np.float32(0.5), 0, 1)

    def ellipse(self, x, y, half_width, half_height):
        """Alpha of an ellipse about (0, 0)."""
        # With q = x^2 + y^2 in units of the axes, (1 - q) / |gradient of q| is the distance to the
        # edge, to first order.
        x = np.square(x / half_width)
        y = np.square(y / half_height)
        slope = np.sqrt(x / half_width ** 2 + y / half_height ** 2)
        return self.soft((1 - (x + y)) / (2 * slope + np.float32(1e-3)))

    def paint(self, alpha, colour, where):
        """Blend a colour (RGB, 0 to 1) into a region."""
        for plane, value in zip(self.planes, colour):
            patch = plane[where]
            patch += alpha * (np.float32(255 * value + 0.5) - patch)

    def video(self) -> np.ndarray:
        """-> (T, S, S, 3) uint8."""
        video = np.empty((*self.planes.shape[1:], 3), np.uint8)
        for channel, plane in enumerate(self.planes):
            video[..., channel] = plane
        return video


def render(controls: dict, speaker: dict, size: int) -> np.ndarray:
    """Face controls of T frames -> video (T, size, size, 3) uint8."""
    canvas = Canvas(controls, size, speaker["wall"])
    paint_head(canvas, speaker)
    paint_eyes(canvas, speaker)
    paint_mouth(canvas, speaker)
    return canvas.video()


def paint_head(canvas: Canvas, speaker: dict) -> None:
    """Hair behind the head, neck, shirt, the face itself, and the hair on the forehead."""
    face, grid = canvas.face, canvas.grid
    skin, hair = speaker["skin"], speaker["hair"]
    wide, tall = speaker["face_width"], speaker["face_height"]
    length = speaker["hair_length"]

    where, x, y = canvas.region(-wide - 0.14, wide + 0.14, -1, min(1, 0.12 + 0.75 * length))
    cut = canvas.soft(0.1 + 0.75 * length - y)
    canvas.paint(canvas.ellipse(x, y + 0.12, wide + 0.12, tall + 0.02) * cut, hair, where)

    where, x, y = canvas.region(-0.22, 0.22, 0.45, 1)
    canvas.paint(canvas.soft(0.2 - np.abs(x)), skin * 0.85, where)

    # The body is painted in coordinates of the picture: it sways less than the head.
    rows = slice(int(0.85 * canvas.size), canvas.size)
    body = canvas.ellipse(grid - 0.5 * face["right"], grid[rows, None] - 1.15, 0.75, 0.38)
    canvas.paint(body, speaker["shirt"], (slice(None), rows, slice(None)))

    # The chin narrows the face, and the jaw lengthens its lower half.
    where, x, y = canvas.region(-wide - 0.02, wide + 0.02, -tall - 0.02, 1.1 * tall + 0.02)
    x = x / (1 - 0.12 * np.clip(y, 0, 1))
    y = np.where(y > 0, y / (1 + 0.09 * face["jaw"]), y)
    canvas.paint(canvas.ellipse(x, y, wide, tall), skin, where)

    where, x, y = canvas.region(-wide - 0.07, wide + 0.07, -1, 0.2 - speaker["fringe"])
    fringe = canvas.soft(0.3 * x * x - y - speaker["fringe"] - 0.1)
    canvas.paint(canvas.ellipse(x, y + 0.12, wide + 0.05, tall) * fringe, hair, where)


def paint_eyes(canvas: Canvas, speaker: dict) -> None:
    """Eyes and brows, both sides at once by symmetry, and the nose."""
    face = canvas.face
    skin, hair = speaker["skin"], speaker["hair"]
    size, middle = speaker["eye_size"], speaker["eye_distance"]

    # The lids, the white as far as they are open, and the iris on it.
    reach = middle + (1.25 * size + 0.02)
    where, x, y = canvas.region(-reach, reach, -0.12 - size - 0.02, -0.12 + size + 0.02)
    outward = np.abs(x) - middle
    y = y + 0.12
    eye = canvas.ellipse(outward, y, 1.25 * size, size)
    canvas.paint(eye, skin * 0.8, where)
    eye *= canvas.soft(size * (1 - 1.3 * face["blink"]) - np.abs(y))
    canvas.paint(eye, (0.97, 0.97, 0.97), where)
    eye *= canvas.ellipse(x - np.sign(x) * middle - 0.05 * face["gaze"], y, 0.6 * size, 0.6 * size)
    canvas.paint(eye, speaker["iris"], where)

    # The brows are parabolas.
    where, x, y = canvas.region(-middle - 0.14, middle + 0.14, -0.42, -0.16)
    outward = np.abs(x) - middle
    y = y + 0.28 + 0.05 * face["brow"] + 0.5 * outward * outward
    brow = canvas.soft(speaker["brow"] - np.abs(y)) * canvas.soft(0.12 - np.abs(outward))
    canvas.paint(brow, hair * 0.8, where)

    nose = speaker["nose"]
    where, x, y = canvas.region(-1.4 * nose - 0.02, 1.4 * nose + 0.02, 0.12 - nose, 0.16 + nose)
    canvas.paint(0.5 * canvas.ellipse(x, y - 0.14, 1.4 * nose, nose), skin * 0.6, where)


def paint_mouth(canvas: Canvas, speaker: dict) -> None:
    """Lips, and between them the dark, the teeth and the tongue."""
    face = canvas.face
    width = speaker["mouth_width"] * (1 + 0.35 * face["width"])
    opening = 0.24 * face["opening"]
    lip = speaker["lip_thickness"] * (1 - 0.2 * face["width"])
    # The lower lip falls by the opening, and the upper one rises by a quarter of it.
    half = 0.625 * opening

    reach = float((width + 0.6 * lip).max()) + 0.02
    top = 0.33 - float((0.25 * opening + lip).max())
    bottom = 0.39 + float((opening + lip).max())
    where, x, y = canvas.region(-reach, reach, top, bottom)
    y = y - 0.36 - 0.375 * opening

    lips = canvas.ellipse(x, y, width + 0.6 * lip, half + lip)
    canvas.paint(lips, speaker["lip"], where)
    inside = lips * canvas.ellipse(x, y, 0.88 * width, half + np.float32(0.006))
    canvas.paint(inside, (0.22, 0.05, 0.07), where)

    # The teeth hang from the upper lip; closed, they fill the whole opening.
    shown = np.clip(4 * face["opening"], 0, 1)
    edge = (1.6 * face["teeth"] - 0.45) * half
    canvas.paint(inside * canvas.soft(edge - y) * shown, (0.95, 0.95, 0.92), where)

    # The tongue lies at the bottom, hidden by closed teeth, and its tip rises in front of the upper
    # ones.
    rise = face["tongue"] * (1 - face["teeth"])
    tall = half * (0.55 + 0.25 * rise) + np.float32(0.01)
    tongue = canvas.ellipse(x, y - (0.9 - 0.85 * rise) * half, 0.6 * width, tall)
    shown = np.clip((3 + 3 * rise) * face["opening"] - 0.6, 0, 1) * (1 - 0.9 * face["teeth"])
    canvas.paint(inside * tongue * shown, (0.75, 0.35, 0.38), where)
