"""The cartoon talkers of the synthetic corpus: their words, voices and faces. data.SyntheticCorpus makes clips of them.

A first reading can skip this file. One articulatory trajectory per utterance (per phone: formants, voicing, hiss, jaw, lip width
and closure, smoothed for coarticulation) drives both a source-filter synthesizer and a face renderer, so speech and face share
their cause, as the paper supposes, and the truth is known for every frame. Pure numpy, vectorised, fast: a clip takes some 35 ms.

    text -> articulate -> control tracks (8 T,) -> synthesize -> speech (n,) float32
                                                -> move_face  -> face controls (T,) -> render -> video (T, S, S, 3) uint8

Axes: T video frames, n audio samples, S image side.
"""
import colorsys

import numpy as np

FPS = 25                    # of the video, as in data.py
VERSION = 1                 # raise it whenever the clips change: cached clips and latents are then made anew

GRAMMAR = [words.split() for words in (             # GRID's, which leaves out the letter w: 64,000 sentences
    "bin lay place set", "blue green red white", "at by in with", "a b c d e f g h i j k l m n o p q r s t u v x y z",
    "zero one two three four five six seven eight nine", "again now please soon")]

LEXICON = {word: phones.split() for word, phones in (entry.split(None, 1) for entry in """
bin B IH N; lay L EY; place P L EY S; set S EH T; blue B L UW; green G R IY N; red R EH D; white W AY T; at AE T; by B AY;
in IH N; with W IH DH; a EY; b B IY; c S IY; d D IY; e IY; f EH F; g JH IY; h EY CH; i AY; j JH EY; k K EY; l EH L; m EH M;
n EH N; o OW; p P IY; q K Y UW; r AA R; s EH S; t T IY; u Y UW; v V IY; x EH K S; y W AY; z Z IY; zero Z IH R OW; one W AH N;
two T UW; three TH R IY; four F AO R; five F AY V; six S IH K S; seven S EH V AH N; eight EY T; nine N AY N; again AH G EH N;
now N AW; please P L IY Z; soon S UW N""".split(";"))}

# A phone is one or more segments of so many milliseconds: three formants (Hz), strengths of voice, breath and hiss, centre and
# width of the hiss (Hz), nasality; jaw (1 open), width (-1 rounded, 1 spread) and closure of the lips. The holds say how firmly
# a segment keeps its formants and its lips against its neighbours (coarticulation).
COLUMNS = ("duration formant1 formant2 formant3 formant_hold voice breath hiss hiss_centre hiss_width nasality "
           "jaw width closure lip_hold").split()
VOWELS = """
IY 140 280 2290 3010 .25 .9; IH 110 400 1990 2600 .35 .5; EH 130 560 1840 2500 .6 .4; AE 130 690 1700 2450 .85 .5;
AA 140 740 1120 2500 1 .1; AO 140 570 860 2450 .7 -.6; AH 100 630 1200 2450 .6 .1; UW 140 310 980 2250 .25 -1;
EY 80 500 1850 2500 .5 .5; EY 80 310 2200 2850 .25 .8; AY 90 750 1200 2500 1 .2; AY 80 350 2100 2700 .3 .7;
AW 90 750 1300 2500 1 .1; AW 80 400 900 2300 .3 -.8; OW 90 540 1000 2400 .6 -.5; OW 80 380 820 2350 .3 -1"""
CONSONANTS = """
SIL 100 500 1500 2500 .05 0 0 0 3000 2000 0 .05 0 .9 .6;    W 60 300 640 2200 1.5 .6 0 0 3000 2000 0 .15 -1 .1 2;
Y 60 270 2300 3050 1.5 .6 0 0 3000 2000 0 .2 .7 0 1;        R 70 340 1150 1500 1.5 .6 0 0 3000 2000 0 .25 -.5 0 1;
L 70 350 1000 2700 1.5 .6 0 0 3000 2000 0 .4 .1 0 .5;       M 90 260 900 2100 1.5 .35 0 0 3000 2000 1 .15 0 1 4;
N 90 270 1700 2600 1.5 .35 0 0 3000 2000 1 .25 .2 0 .5;     B 50 220 700 2150 2 .1 0 0 700 600 0 .15 0 1 4;
B 12 300 900 2250 1 .3 0 .4 700 700 0 .2 0 .4 1;            D 50 220 1800 2750 1.5 .1 0 0 4200 1200 0 .25 .2 0 .5;
D 14 300 1800 2700 1 .3 0 .5 4200 1200 0 .25 .2 0 .3;       G 55 220 2050 2300 1.5 .1 0 0 2100 600 0 .3 .1 0 .3;
G 26 300 2050 2350 1.5 .25 0 .8 2100 600 0 .3 .1 0 .3;      P 65 220 700 2150 2 0 0 0 700 600 0 .15 0 1 4;
P 14 350 900 2250 1 0 .3 .5 800 800 0 .2 0 .4 1;            P 40 450 1300 2400 .1 0 .6 0 800 800 0 .3 0 0 .2;
T 65 220 1800 2750 1 0 0 0 4500 1300 0 .25 .2 0 .5;         T 20 350 1800 2700 1 0 .2 .9 4500 1300 0 .25 .2 0 .3;
T 45 400 1800 2600 .1 0 .4 .35 4500 1500 0 .3 .2 0 .2;      K 65 220 2000 2400 1 0 0 0 2100 600 0 .3 .1 0 .3;
K 24 350 2000 2400 1 0 .2 .9 2100 600 0 .3 .1 0 .3;         K 40 400 1800 2500 .1 0 .6 0 2100 600 0 .3 .1 0 .2;
F 120 300 1100 2200 1 0 .03 .25 6000 4000 0 .2 .1 .75 3;    V 75 280 1100 2200 1 .45 0 .1 6000 4000 0 .2 .1 .75 3;
TH 100 300 1400 2600 1 0 .03 .14 6500 3500 0 .3 .2 0 .7;    DH 60 280 1400 2600 1 .5 0 .08 6500 3500 0 .3 .2 0 .7;
S 120 300 1750 2700 1 0 0 .8 6000 1300 0 .15 .4 0 1;        Z 90 270 1750 2700 1 .35 0 .5 6000 1300 0 .15 .4 0 1;
CH 60 250 1900 2600 1 0 0 0 3300 1000 0 .15 -.3 0 1;        CH 85 300 1900 2600 1 0 .1 .8 3300 1000 0 .2 -.4 0 1;
JH 50 230 1900 2600 1 .1 0 0 3300 1000 0 .15 -.3 0 1;       JH 55 280 1900 2600 1 .35 0 .6 3300 1000 0 .2 -.4 0 1"""
SMOOTHING = dict(formant1=18, formant2=22, formant3=22, voice=7, breath=7, hiss=4, hiss_centre=6, hiss_width=6, nasality=8,
                 jaw=38, width=42, closure=24)          # deviation in ms of the Gaussian that glides from segment to segment
CONTROL_RATE = 200                                      # articulatory controls a second: 8 a video frame


PHONES = {}                             # phone -> its segments, each a list of numbers in the order of COLUMNS
for entry in (VOWELS + ";" + CONSONANTS).split(";"):
    phone, *row = entry.split()
    if len(row) == 6:                   # vowels differ in length, formants, jaw and width alone
        row = row[:4] + "1 1 0 0 3000 2000 0".split() + row[4:] + [0, 1]
    PHONES.setdefault(phone, []).append([float(value) for value in row])


def make_talker(number):
    """Voice and looks of talker `number`, the same in every corpus. Lengths of the face are in half sides of the picture, or
    so."""
    rng = np.random.default_rng([VERSION, number])
    draw = rng.uniform
    height = draw()                                     # from a low voice in a long vocal tract to a high voice in a short one
    tone, redness = draw(), draw(.75, 1.15)

    def colour(hue, saturation, value):
        return np.array(colorsys.hsv_to_rgb(draw(*hue), draw(*saturation), draw(*value)))

    return dict(
        pitch=95 * 2 ** (1.1 * height + draw(-.15, .15)), tract=.95 + .2 * height + draw(-.02, .02), breathiness=draw(.01, .06),
        rate=draw(.92, 1.1), brightness=draw(.8, 1.2),
        skin=(1 - tone) * np.array([.98, .84, .72]) + tone * np.array([.42, .27, .19]), lip=np.array([.75, .3, .32]) * redness,
        hair=colour((0, .12), (.2, .8), (.08, .7)), wall=colour((0, 1), (.2, .6), (.4, .88)),
        shirt=colour((0, 1), (.3, .8), (.2, .9)), iris=colour((0, 1), (.5, .7), (.15, .5)),
        face_width=draw(.5, .6), face_height=draw(.66, .76), fringe=draw(.3, .55), hair_length=draw(), nose=draw(.03, .06),
        mouth_width=draw(.22, .29), lip_thickness=draw(.035, .075), eye_distance=draw(.2, .26), eye_size=draw(.075, .1),
        brow=draw(.02, .045))


def articulate(text, talker, rng):
    """Text -> dict of control tracks, each (8 T,) float32 at 200 Hz, T whole frames long: those of SMOOTHING, and pitch in Hz."""
    spoken = [("SIL", rng.uniform(.6, 2.0))]            # phone, stretch; a silence of stretch 1 lasts 100 ms
    for position, word in enumerate(text.split()):
        stretch = talker["rate"] * rng.uniform(.93, 1.07) * (1.25 if len(word) == 1 else 1.15 if position == 5 else 1)
        spoken += [(phone, stretch) for phone in LEXICON[word]]
        if position in (2, 3):                          # speakers set the letter apart by small pauses
            spoken.append(("SIL", rng.uniform(.1, .5)))
    spoken.append(("SIL", rng.uniform(.8, 2.4)))
    segments = np.array([segment for phone, _ in spoken for segment in PHONES[phone]])
    durations = segments[:, 0] * np.array([stretch for phone, stretch in spoken for _ in PHONES[phone]])
    ends = np.cumsum(durations)
    steps = int(np.ceil(ends[-1] / 1000 * FPS)) * CONTROL_RATE // FPS
    active = np.searchsorted(ends, (np.arange(steps) + .5) * 1000 / CONTROL_RATE).clip(max=len(ends) - 1)
    held = dict(zip(COLUMNS, segments[active].T))       # piecewise constant; what follows makes it glide

    def smooth(values, milliseconds):
        deviation = milliseconds / 1000 * CONTROL_RATE
        reach = int(4 * deviation) + 1
        kernel = np.exp(-.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)
        return np.convolve(np.pad(values, reach, mode="edge"), kernel / kernel.sum(), "valid")

    tracks = {}
    for name, milliseconds in SMOOTHING.items():
        hold = np.ones(steps)
        if name.startswith("formant") or name in ("jaw", "width", "closure"):
            hold = held["formant_hold" if name.startswith("formant") else "lip_hold"]
        tracks[name] = smooth(held[name] * hold, milliseconds) / smooth(hold, milliseconds)
    seconds = np.arange(steps) / CONTROL_RATE
    melody = .12 - .3 * seconds / seconds[-1] + .025 * drift(rng, seconds, (.3, .7, 1.3))       # octaves: falling, with some life
    tracks["pitch"] = talker["pitch"] * 2 ** melody
    return {name: track.astype(np.float32) for name, track in tracks.items()}


def drift(rng, seconds, frequencies):
    """A slow random movement, (len(seconds),): a sum of sinusoids of random phase and size."""
    return sum(rng.normal() * np.sin(2 * np.pi * frequency * seconds + rng.uniform(0, 2 * np.pi)) for frequency in frequencies)


def synthesize(tracks, talker, sample_rate, rng):
    """Control tracks -> speech (n,) float32. A source of pulses and noise passes through filters that change every 10 ms, as a
    product of spectra; frames of 20 ms overlap by half and add up."""
    steps, hop = len(tracks["pitch"]), sample_rate // 100
    samples, frames = steps * hop // 2, steps // 2 + 1
    width = 4 * hop                                     # a frame of 2 hops, and 2 more for the filters to ring out

    def per_sample(track):                              # straight lines between the controls
        ramp = np.arange(hop // 2, dtype=np.float32) / (hop // 2)
        return (track[:, None] + np.diff(track, append=track[-1])[:, None] * ramp).ravel()

    def spectra(signal):                                # (samples,) -> (frames, width // 2 + 1)
        window = np.hanning(2 * hop + 1)[:-1].astype(np.float32)
        return np.fft.rfft(np.lib.stride_tricks.sliding_window_view(np.pad(signal, hop), 2 * hop)[::hop] * window, width)

    # The source: one pulse a period of the voice, placed between samples (rounding would be heard as roughness), and noise.
    pitch = per_sample(tracks["pitch"] * (1 + .01 * rng.normal(size=steps)).astype(np.float32))
    cycles = np.cumsum(pitch / sample_rate, dtype=np.float64)
    start = np.flatnonzero(np.diff(np.floor(cycles)) > 0) + 1
    late = (cycles[start] % 1) / (cycles[start] - cycles[start - 1])
    pulses = np.zeros(samples, np.float32)
    pulses[start] = (1 - late) * np.sqrt(120 / pitch[start])
    pulses[start - 1] += late * np.sqrt(120 / pitch[start])
    noise = rng.standard_normal(samples, dtype=np.float32)
    voice, breath = tracks["voice"], .8 * tracks["breath"] + talker["breathiness"] * tracks["voice"]
    source = spectra(25 * per_sample(voice) * pulses + 1.2 * per_sample(breath) * noise)

    # The filters, (frames, frequencies): a resonance a formant, those above the third fixed, and a dip for nasals.
    now = {name: track[np.minimum(2 * np.arange(frames), steps - 1), None] for name, track in tracks.items()}
    hertz = np.fft.rfftfreq(width, 1 / sample_rate).astype(np.float32)
    delay = np.exp(-2j * np.pi * hertz / sample_rate).astype(np.complex64)
    delay2 = delay * delay
    tract, nasality = np.float32(talker["tract"]), now["nasality"]

    def resonance(frequency, bandwidth):                # gain at frequency 0 is 1
        radius = np.exp(-np.pi / sample_rate * np.float32(bandwidth))
        cosine = 2 * radius * np.cos(2 * np.pi / sample_rate * frequency)
        return (1 - cosine + radius ** 2) / (1 - cosine * delay + radius ** 2 * delay2)

    glottis = (1j * hertz / 100) / (1 + 1j * hertz / (110 * talker["brightness"])) ** 2
    for frequency, bandwidth in ((3500, 200), (4500, 250), (5500, 350), (6500, 450), (7500, 600)):
        glottis = glottis * resonance(tract * frequency, bandwidth)
    source *= glottis.astype(np.complex64)
    source *= 1 - .85 * nasality * np.exp(-((hertz - 900) / 350) ** 2)
    for name, narrow, nasal in (("formant1", 60, 80), ("formant2", 90, 100), ("formant3", 130, 60)):
        source *= resonance(tract * now[name], narrow + nasal * nasality)

    hissing = np.flatnonzero(now["hiss"][:, 0] > 1e-3)  # hiss is made at the teeth and doesn't pass the formants
    hiss = spectra(.6 * per_sample(tracks["hiss"]) * noise)[hissing]
    source[hissing] += hiss * np.exp(-.5 * ((hertz - now["hiss_centre"][hissing]) / now["hiss_width"][hissing]) ** 2)

    pieces = np.fft.irfft(source, width).reshape(frames, 4, hop)
    speech = np.zeros((frames + 3, hop), np.float32)
    for part in range(4):
        speech[part:part + frames] += pieces[:, part]
    speech = speech.ravel()[hop:hop + samples]          # frame 0 is centred on sample 0
    speech = speech * (.08 / np.sqrt(np.mean(speech ** 2))) + .0005 * noise
    return np.clip(speech, -1, 1)


def move_face(tracks, rng):
    """Control tracks -> dict of face controls, each (T,) float32: what speech moves, then sway, gaze and blinks, at random."""
    def per_frame(track):
        return track.reshape(-1, CONTROL_RATE // FPS).mean(1)

    jaw, voice = per_frame(tracks["jaw"]), per_frame(tracks["voice"])
    emphasis = np.convolve(voice, np.ones(3) / 3, "same")
    seconds = np.arange(len(jaw)) / FPS
    blinks = np.cumsum(rng.uniform(.4, 2.2, 6))
    controls = dict(
        opening=jaw * (1 - np.clip(per_frame(tracks["closure"]), 0, 1)), jaw=jaw, width=per_frame(tracks["width"]),
        blink=np.exp(-((seconds[:, None] - blinks) / .06) ** 2).max(1),
        right=.018 * drift(rng, seconds, (.2, .5)), down=.01 * drift(rng, seconds, (.25, .6)) + .015 * emphasis,
        tilt=.02 * drift(rng, seconds, (.2, .45)), zoom=1 + .014 * drift(rng, seconds, (.15, .4)),
        brow=.5 * emphasis + .3 * drift(rng, seconds, (.3,)), gaze=.2 * drift(rng, seconds, (.2, .5)))
    return {name: control.astype(np.float32) for name, control in controls.items()}


def render(controls, talker, size):
    """Face controls of T frames -> video (T, size, size, 3) uint8. Shapes are painted back to front with soft edges (alpha: how
    much of a pixel lies inside), all frames at once, but only in the rectangle that a shape can reach: that makes it fast."""
    face = {name: control[:, None, None] for name, control in controls.items()}
    enlarge = 1.12 * face["zoom"]
    sharpness = np.float32(1.12 * size / 2)             # pixels a head unit
    grid = (np.arange(size, dtype=np.float32) + .5) * 2 / size - 1
    across, along = grid[None, None, :] - face["right"], grid[None, :, None] - face["down"] - np.float32(.02)
    cosine, sine = np.cos(face["tilt"]), np.sin(face["tilt"])
    picture = np.empty((3, len(controls["jaw"]), size, size), np.float32)
    for plane, value in zip(picture, talker["wall"]):
        plane[:] = (255 * value * (1 - .12 * grid) + .5).astype(np.float32)[:, None]        # + .5: the last cast rounds down

    def region(left, right, top, bottom):
        """The pixels that a rectangle of the head reaches in any frame, and their head coordinates (T, rows, columns)."""
        x, y = np.float32([left, right, left, right]), np.float32([top, top, bottom, bottom])
        columns = (x * cosine - y * sine) * enlarge + face["right"]
        rows = (x * sine + y * cosine) * enlarge + face["down"] + .02
        columns, rows = (slice(max(0, int((edge.min() + 1) * size / 2 - 1)), max(0, int((edge.max() + 1) * size / 2 + 2)))
                         for edge in (columns, rows))
        x = across[..., columns] * (cosine / enlarge) + along[:, rows] * (sine / enlarge)
        y = along[:, rows] * (cosine / enlarge) - across[..., columns] * (sine / enlarge)
        return (slice(None), rows, columns), x, y

    def soft(distance):                                 # signed distance to an edge, positive inside -> alpha
        return np.clip(distance * sharpness + np.float32(.5), 0, 1)

    def ellipse(x, y, half_width, half_height):
        """Alpha of an ellipse about 0. (1 - q) / |gradient of q| is the distance to its edge, to first order."""
        x, y = np.square(x / half_width), np.square(y / half_height)
        slope = np.sqrt(x / half_width ** 2 + y / half_height ** 2)
        return soft((1 - (x + y)) / (2 * slope + np.float32(1e-3)))

    def paint(alpha, colour, where):
        for plane, value in zip(picture, colour):
            patch = plane[where]
            patch += alpha * (np.float32(255 * value + .5) - patch)

    skin, hair, wide, tall = talker["skin"], talker["hair"], talker["face_width"], talker["face_height"]
    where, x, y = region(-wide - .14, wide + .14, -1, min(1, .12 + .75 * talker["hair_length"]))
    paint(ellipse(x, y + .12, wide + .12, tall + .02) * soft(.1 + .75 * talker["hair_length"] - y), hair, where)
    where, x, y = region(-.22, .22, .45, 1)
    paint(soft(.2 - np.abs(x)), skin * .85, where)
    where = (slice(None), slice(int(.85 * size), size), slice(None))        # the body sways less than the head
    paint(ellipse(grid - .5 * face["right"], grid[where[1], None] - 1.15, .75, .38), talker["shirt"], where)
    where, x, y = region(-wide - .02, wide + .02, -tall - .02, 1.1 * tall + .02)
    paint(ellipse(x / (1 - .12 * np.clip(y, 0, 1)), np.where(y > 0, y / (1 + .09 * face["jaw"]), y), wide, tall), skin, where)
    where, x, y = region(-wide - .07, wide + .07, -1, .2 - talker["fringe"])
    paint(ellipse(x, y + .12, wide + .05, tall) * soft(.3 * x * x - y - talker["fringe"] - .1), hair, where)

    size_of_eye, middle = talker["eye_size"], talker["eye_distance"]
    half = 1.25 * size_of_eye + .02
    where, x, y = region(-middle - half, middle + half, -.12 - size_of_eye - .02, -.12 + size_of_eye + .02)
    outward, y = np.abs(x) - middle, y + .12            # both eyes at once, by symmetry
    eye = ellipse(outward, y, 1.25 * size_of_eye, size_of_eye)
    paint(eye, skin * .8, where)
    eye *= soft(size_of_eye * (1 - 1.3 * face["blink"]) - np.abs(y))
    paint(eye, (.97, .97, .97), where)
    eye *= ellipse(x - np.sign(x) * middle - .05 * face["gaze"], y, .6 * size_of_eye, .6 * size_of_eye)
    paint(eye, talker["iris"], where)
    where, x, y = region(-middle - .14, middle + .14, -.42, -.16)
    outward = np.abs(x) - middle
    y = y + .28 + .05 * face["brow"] + .5 * outward * outward
    paint(soft(talker["brow"] - np.abs(y)) * soft(.12 - np.abs(outward)), hair * .8, where)
    nose = talker["nose"]
    where, x, y = region(-1.4 * nose - .02, 1.4 * nose + .02, .12 - nose, .16 + nose)
    paint(.5 * ellipse(x, y - .14, 1.4 * nose, nose), skin * .6, where)

    width, opening = talker["mouth_width"] * (1 + .35 * face["width"]), .24 * face["opening"]
    lip = talker["lip_thickness"] * (1 - .2 * face["width"])
    half = .625 * opening                               # the lower lip falls by the opening, the upper rises by a quarter of it
    reach = float((width + .6 * lip).max()) + .02
    where, x, y = region(-reach, reach, .33 - float((.25 * opening + lip).max()), .39 + float((opening + lip).max()))
    y = y - .36 - .375 * opening
    lips = ellipse(x, y, width + .6 * lip, half + lip)
    paint(lips, talker["lip"], where)
    inside = lips * ellipse(x, y, .88 * width, half + np.float32(.006))
    paint(inside, (.22, .05, .07), where)
    paint(inside * soft(-y - .45 * half) * np.clip(4 * face["opening"], 0, 1), (.95, .95, .92), where)             # teeth
    tongue = ellipse(x, y - .9 * half, .6 * width, .55 * half + np.float32(.01))
    paint(inside * tongue * np.clip(3 * face["opening"] - .6, 0, 1), (.75, .35, .38), where)

    video = np.empty((len(controls["jaw"]), size, size, 3), np.uint8)
    for channel, plane in enumerate(picture):
        video[..., channel] = plane
    return video
