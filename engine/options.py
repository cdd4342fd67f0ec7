"""The command line of sample.py: its options, and what must not be combined."""
import argparse
from pathlib import Path

from engine.machine import pick_device

MOST = 1000                         # samples of a text, Euler steps


def make_parser(about: str) -> argparse.ArgumentParser:
    """All options. about: the text of --help."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--ckpt", type=Path, help="the folder of a training run")
    model.add_argument(
        "--released", type=Path, help="a folder with the released Talker-T2AV: its safetensors "
        "and tokenizer, the WhisperX-VAE .ckpt, lia-x.pt, motion_mean.npy and motion_std.npy")

    parser.add_argument("--text", help="what to say")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--texts", type=Path,
                      help="a file: a text per line, or name<TAB>speaker<TAB>text")
    what.add_argument("--audio", type=Path, help="a speech, to which a face is made")
    what.add_argument("--video", type=Path, help="a face, to which a speech is made")
    what.add_argument("--prefix-seconds", type=float,
                      help="continue so much of --ref (the first)")
    what.add_argument("--roundtrip", type=Path,
                      help="a folder of clips to pass through the autoencoders")

    who = parser.add_mutually_exclusive_group()
    who.add_argument("--speaker", type=int, help="voice and face of this synthetic speaker "
                     "(0..255 were in training)")
    who.add_argument("--ref", type=Path, nargs="+", help="voice and face of this clip; several "
                     "clips of a person give the voice better")
    parser.add_argument("--voice", type=Path, help="the voice of this sound or clip, of which the "
                        "first 30 s count; with "
                        "--released also a .npy or .pt file with the speaker embedding")
    parser.add_argument("--face", type=Path, help="the face of this picture, or of a clip's first")
    parser.add_argument("--wavlm", help="with --released: the checkpoint of the speaker model; "
                        "the voice is then that of --ref or --voice")

    parser.add_argument("--out", type=Path, required=True, help="an .mp4 ('-' with --stream: "
                        "standard output), or a folder for --texts and --roundtrip")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--n", type=int, default=1, help="so many samples, NAME_0.mp4 and so on; "
                        "the first has the seed, each next one more")
    parser.add_argument("--stream", action="store_true",
                        help="write patch by patch, for a player that follows")
    parser.add_argument("--steps", type=int, help="Euler steps; default: the run's")
    parser.add_argument("--guidance", type=float,
                        help="classifier-free guidance, 1: none; default: the run's")
    parser.add_argument("--temperature", type=float,
                        help="scale of the initial noise; default: the run's")
    parser.add_argument("--motion-temperature", type=float,
                        help="that of the motion alone: with little, the eyes never blink")
    parser.add_argument("--device", default="", help="cpu, cuda or cuda:N; default: a GPU if there "
                        "is one")
    parser.add_argument("--compile", action="store_true", help="for a GPU: wait for a compiler, "
                        "then sample faster, as a CUDA graph")
    parser.add_argument("--crop", help="x,y,size in pixels of --ref, --face, --video or "
                        "--roundtrip, or 'centre'; default: as in training")
    return parser


def parse_options(about: str) -> argparse.Namespace:
    """The options of this process's command line. What can't be ends it with exit code 2 and a
    line that says what to do. `embedding` is the file of a speaker embedding, or None."""
    parser = make_parser(about)
    a = parser.parse_args()
    a.embedding = None
    if a.released and a.voice and a.voice.suffix.lower() in (".npy", ".pt"):
        a.embedding = a.voice

    def refuse(wrong, message: str) -> None:
        if wrong:
            parser.error(message)

    continued = a.prefix_seconds is not None
    named = a.ref or a.speaker is not None
    folder = a.texts or a.roundtrip
    to_output = a.stream and str(a.out) == "-"
    refuse(not any((a.text, a.texts, a.audio, a.video, a.roundtrip)),
           "what is to be said? give --text, or --texts, --audio, --video, --roundtrip")
    refuse(a.text and folder, "--text does not go with --texts or --roundtrip")
    refuse((a.video or continued) and not a.text, "say with --text what is spoken")
    refuse(continued and not a.ref, "--prefix-seconds continues a clip: give --ref clip.mp4")
    refuse(a.texts and not named and bool(a.voice) != bool(a.face),
           "--texts needs both --voice and --face, or --ref or --speaker to take the other from")
    refuse(a.video and a.face, "--video brings its own face: leave --face out")
    refuse(a.n < 1 or a.n > 1 and (folder or a.stream),
           "--n is a number of samples of one text, from 1 on, without --stream")
    refuse(a.stream and folder, "--stream goes with one sample")
    refuse(a.n > MOST, f"--n is at most {MOST} samples, not {a.n}")
    refuse(a.steps is not None and not 2 <= a.steps <= MOST,
           f"--steps must be from 2 to {MOST}, not {a.steps}: the first does not move")
    for option, largest in (("guidance", 20), ("temperature", 10), ("motion_temperature", 10)):
        value = getattr(a, option)
        refuse(value is not None and not 0 <= value <= largest,
               f"--{option.replace('_', '-')} must be from 0 to {largest}, not {value}")
    refuse(a.compile and pick_device(a.device).type == "cpu",
           "--compile is for a GPU: a CPU gains nothing by it")
    refuse(a.ckpt and a.wavlm, "--wavlm goes with --released; a run's own speaker encoder listens "
           "to a clip")
    refuse(a.embedding and a.wavlm, "--wavlm listens to a sound: give --voice a sound or a clip "
           "with it, or the speaker embedding without it")
    refuse(a.ckpt and a.voice and a.voice.suffix.lower() in (".npy", ".pt"),
           "a file with a speaker embedding goes with --released; with --ckpt give --voice a sound "
           "or a clip")
    refuse(a.released and not a.roundtrip and not (a.embedding or a.wavlm),
           "--released needs a voice: --voice FILE with the speaker embedding (.npy or .pt), or "
           "--wavlm CHECKPOINT to take that of --ref or --voice")
    refuse(not folder and not to_output and a.out.suffix.lower() != ".mp4",
           f"--out must end in .mp4, not '{a.out}'")
    return a
