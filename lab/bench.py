"""How fast, beside this machine's own peak and beside the released code:

    python -m lab.bench [peak train sample autoencoders growth]

    peak          products of 2048 x 2048 matrices, fp32 and bf16, and memory bandwidth
    train         one step (forward, backward, optimizer): samples and arithmetic per second
    sample        time to the first patch, real-time factor and memory, at batch 1, 8 and 32, with
                  and without guidance, beside the least time that arithmetic and memory allow
    autoencoders  encode and decode, in seconds of clip per second
    growth        sampling against length, batch and width (with --plot growth.png, which needs
                  matplotlib)

--config=PRESET or any field of train.py as --name=value sets the sizes. --plain leaves out the
faster classes of engine/kernels.py in `train` and of engine/sampling.py in `sample`: run with and
without it to measure what they gain.

--released PATH, a checkout of the released code (github.com/zhenye234/Talker-T2AV), adds its
training step and its generation at the same sizes and with the same weights, after checking that
both compute the same numbers. It needs transformers, safetensors and pydantic.

What is compared takes turns within one process, and each figure is the median of its turns. Weights
are random: they cost as much as trained ones.

Axis letters: B batch, L text tokens, N patches, P frames per patch, T frames, d latent width.
"""
import argparse
import copy
import dataclasses
import functools
import json
import resource
import sys
import time
import types
from pathlib import Path
from typing import Callable

from engine.machine import pick_device, prepare_machine, slow_in_bf16    # before torch
import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

import train
from engine import kernels, sampling
from engine.optimizers import optimizers
from engine.processes import plainly
from model import FPS

PARTS = ("peak", "train", "sample", "autoencoders", "growth")

# The widths of `paper` with fewer layers, instead of `small`.
MEDIUM = dict(
    width=1024, layers=4, attention_heads=16, kv_heads=8, head_dim=128, mlp_width=3072,
    patch_layers=1, patch_heads=8, flow_width=1024, flow_layers=2, flow_heads=8, flow_repeats=2.0,
    motion_size=40, speaker_size=256, voice_statistics=False, condition_backbone=False,
    regression_weight=0.0, alignment_weight=0.0, hidden_per_frame=False, muon_rate=0.0,
    talker_batch=8)


# --------------------------------------------------------------------------------------- timing
def take_turns(functions: dict[str, Callable], turns=5, warm=1) -> dict[str, float]:
    """name -> function without arguments; name -> median seconds of a call. They alternate, so that
    a slow moment hits them alike. The first `warm` turns do not count."""
    found = {name: [] for name in functions}
    label = " / ".join(functions)[:40]
    for turn in tqdm(range(warm + turns), desc=label, leave=False, disable=None):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn >= warm:
                found[name].append(time.perf_counter() - start)
    return {name: sorted(seconds)[len(seconds) // 2] for name, seconds in found.items()}


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# ------------------------------------------------------------------------------------- the peak
def peak(device: torch.device, side=2048, count=4) -> dict[str, float]:
    """dtype -> GFLOP/s of a square matrix product. A CPU without instructions for bf16 multiplies
    at 1 GFLOP/s in it: there one product of 512 x 512 says as much, and takes no minutes."""
    functions = {}
    operations = {}
    for dtype in (torch.float32, torch.bfloat16):
        slow = device.type == "cpu" and dtype == torch.bfloat16 and slow_in_bf16()
        n, times = (512, 1) if slow else (side, count)
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        functions[dtype_name(dtype)] = functools.partial(multiply, a, b, times)
        operations[dtype_name(dtype)] = times * 2 * n ** 3
    seconds = take_turns(functions)
    return {name: operations[name] / s / 1e9 for name, s in seconds.items()}


def multiply(a: torch.Tensor, b: torch.Tensor, times: int) -> None:
    for _ in range(times):
        a @ b


def bandwidth(device: torch.device, side=8192) -> float:
    """GB/s at which numbers that fit into no cache are read, to add them up."""
    numbers = torch.randn(side, side, device=device)
    seconds = take_turns({"bandwidth": numbers.sum})["bandwidth"]
    return 4 * side ** 2 / seconds / 1e9


# ------------------------------------------------------------------------------------- training
def to_device(x, device: torch.device):
    """A tensor, or a dict of what this takes, on the device."""
    if isinstance(x, dict):
        return {name: to_device(value, device) for name, value in x.items()}
    return x.to(device)


def batch_of(config: train.Config, device: torch.device, batch: int, patches=16, text=26) -> dict:
    """Random text and latents of ragged lengths, as Talker.forward takes them: text (B, L), of L =
    `text` tokens at most; latents (B, N P, d), of N = `patches` at most."""
    generator = torch.Generator().manual_seed(0)
    P = config.patch
    modalities = {name: stream.modality(config) for name, stream in train.MODALITIES.items()}

    # Lengths from three quarters on. The first sample has the full ones.
    lengths = torch.randint(patches * 3 // 4, patches + 1, (batch,), generator=generator)
    lengths[0] = patches
    frames = lengths * P                                                      # (B,)
    tokens = torch.randint(text * 3 // 4, text + 1, (batch,), generator=generator)
    tokens[0] = text                                                          # (B,)

    # Text is padded on the left. Latents are zero beyond the sample's own frames.
    ids = torch.randint(1, config.vocabulary, (batch, text), generator=generator)
    mask = torch.arange(text)[None] >= text - tokens[:, None]                 # (B, L)
    has_frame = torch.arange(patches * P)[None] < frames[:, None]             # (B, T)
    latents = {}
    for name, m in modalities.items():
        x = torch.randn(batch, patches * P, m.latent, generator=generator)    # (B, T, d)
        latents[name] = x * has_frame[..., None]

    # As in the released code, the condition of the motion is its first frame.
    conditions = {name: torch.randn(batch, m.condition, generator=generator)
                  for name, m in modalities.items()}
    conditions["motion"] = latents["motion"][:, 0]
    # The text is spoken evenly.
    spoken = torch.arange(1, patches * P + 1) / frames[:, None] * tokens[:, None]     # (B, T)
    return to_device(dict(text=ids, text_mask=mask, latents=latents,
                          frames=dict.fromkeys(modalities, frames), conditions=conditions,
                          spoken=spoken), device)


def training_step(talker, batch: dict, optimizers: list, device: torch.device,
                  dtype: torch.dtype) -> Callable:
    """A function that takes one step: forward, backward, clipping, optimizers."""
    parameters = [p for p in talker.parameters() if p.requires_grad]

    def step() -> None:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss, _ = talker(**batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    return step


def bench_train(config: train.Config, device: torch.device, dtype: torch.dtype, limit: float,
                plain: bool) -> dict[str, float]:
    """One training step. limit: GFLOP/s of the machine's own matrix product in the dtype in use.
    plain: without engine/kernels.py."""
    talker = train.build("talker", config).to(device).train()
    if not plain:
        kernels.install(talker)
    batch = batch_of(config, device, config.talker_batch)
    step = training_step(talker, batch, optimizers(talker, config, dtype), device, dtype)
    with FlopCounterMode(display=False) as counter:
        step()
    seconds = take_turns({"train": step}, turns=9, warm=2)["train"]
    rate = counter.get_total_flops() / seconds / 1e9
    return {"samples/s": config.talker_batch / seconds, "GFLOP/s": rate,
            "of peak %": 100 * rate / limit}


# ------------------------------------------------------------------------------------- sampling
def generate(talker, config: train.Config, device: torch.device, batch: int, patches: int,
             guidance: float) -> Callable:
    """A function that samples that many patches and returns the seconds until the first one."""
    x = batch_of(config, device, batch)

    def noise(shape: tuple) -> torch.Tensor:
        return torch.randn(shape, device=device)

    def run() -> float:
        start = time.perf_counter()
        first = None
        steps = talker.generate(
            x["text"], x["text_mask"], x["conditions"], noise, patches, stop_hits=patches + 1,
            steps=config.euler_steps, guidance=guidance, temperature=config.temperature)
        for _ in steps:
            if first is None:
                first = time.perf_counter() - start
        return first
    return run


def least_ms(talker, run: Callable, patches: int, limits: dict[str, float]) -> float:
    """Milliseconds that a patch takes at the least: each Linear that run() calls reads its weights
    (nothing stays in a cache) and multiplies its rows by them. Whichever takes longer counts.

    NOTE: these are the calls of model.py and heads.py. engine/sampling.py makes fewer of them: it
    computes the tokens of condition and history once per patch, and no output that is never used.
    """
    seconds = []

    def count(layer, inputs, output) -> None:
        packed = isinstance(layer, sampling.PackedLinear)
        dtype = layer.dtype if packed else layer.weight.dtype
        rows = inputs[0].numel() // layer.in_features
        weights = layer.in_features * layer.out_features
        reading = dtype.itemsize * weights / limits["bandwidth"]
        multiplying = 2 * weights * rows / limits[dtype_name(dtype)]
        seconds.append(max(reading, multiplying) / 1e9)

    layers = [m for m in talker.modules()
              if isinstance(m, (torch.nn.Linear, sampling.PackedLinear))]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    run()
    for hook in hooks:
        hook.remove()
    return 1000 * sum(seconds) / patches


def is_wide(talker, device: torch.device) -> bool:
    """Whether this Talker takes seconds per patch for 32 clips: wide weights, on a CPU."""
    linears = [m for m in talker.modules() if isinstance(m, torch.nn.Linear)]
    return device.type == "cpu" and any(m.weight.numel() >= sampling.WIDE for m in linears)


def bench_sample(config: train.Config, device: torch.device, limits: dict[str, float],
                 dtype: torch.dtype, compiled: bool, plain: bool) -> list[dict]:
    """One row per batch size and guidance. Decoding is not in it (see bench_autoencoders).

    Args:
        limits: of this machine, GFLOP/s and GB/s. dtype: the fastest one here. Where sample.py
            would use it for wide weights, rows in float32 stand before these.
        compiled: with torch.compile. plain: without engine/sampling.py, in float32.
    """
    rows = []
    for kind in dict.fromkeys((torch.float32, dtype)):
        talker = train.build("talker", config).to(device).eval()
        patches = {1: 16, 8: 16, 32: 16}                    # batch -> number of patches
        if is_wide(talker, device):
            patches = {1: 16, 8: 4, 32: 4}
        packed = not plain and sampling.pack(talker, kind)
        if not packed and kind != torch.float32:
            continue

        # The least time, counted while each Linear is still a module of its own.
        functions = {(batch, guidance): generate(talker, config, device, batch, n, guidance)
                     for batch, n in patches.items() for guidance in (1.0, 2.0)}
        bounds = {(batch, guidance): least_ms(talker, function, patches[batch], limits)
                  for (batch, guidance), function in functions.items()}

        # Then the forms in which sample.py samples.
        if not plain:
            sampling.install(talker, kind)
        if compiled:
            sampling.compile_heads(talker)
        seconds = take_turns({str(key): function for key, function in functions.items()})

        for (batch, guidance), function in functions.items():
            n = patches[batch]
            first = sorted(function() for _ in range(5))[2]
            each = 1000 * seconds[str((batch, guidance))] / n
            least = bounds[batch, guidance]
            # Keys and values, in float32, of the prefix (task tag, 26 tokens) and all patches.
            positions = 27 + n
            cache = 2 * config.layers * batch * config.kv_heads * positions * config.head_dim * 4
            rows.append({
                "weights": dtype_name(kind), "batch": batch, "guidance": guidance,
                "first patch ms": 1000 * first,
                "real-time factor": each / (1000 * batch * config.patch / FPS),
                "ms a patch": each, "least ms": least, "times the least": each / least,
                "cache MB": cache / 1e6})
    return rows


# --------------------------------------------------------------------------------- autoencoders
def bench_autoencoders(config: train.Config, device: torch.device) -> dict[str, float]:
    """Seconds of clip per second, one clip of 3 s at a time."""
    audio = train.build("audio", config).to(device).eval()
    motion = train.build("motion", config).to(device).eval()
    frames = 75
    samples = frames * config.sample_rate // FPS
    wave = torch.randn(1, samples, device=device) * 0.1                         # (1, n)
    pictures = torch.rand(frames, 3, config.size, config.size, device=device)   # (T, 3, S, S)
    speaker = torch.zeros(1, config.speaker_size, device=device)
    with torch.inference_mode():
        latents = audio.encode(wave)                                            # (1, T, d)
        moved = motion.encode(pictures)[None]                                   # (1, T, K)
        seconds = take_turns({
            "audio encode": lambda: audio.encode(wave),
            "audio decode": lambda: audio.decode(latents, speaker),
            "motion encode": lambda: motion.encode(pictures),
            "motion decode": lambda: motion.decode(pictures[:1], moved)})
    return {name: frames / FPS / s for name, s in seconds.items()}


# --------------------------------------------------------------------------------------- growth
def ms_per_patch(config: train.Config, device: torch.device, dtype: torch.dtype, batch: int,
                 patches: int) -> float:
    """Milliseconds per patch of sampling, guidance 2, the Talker as sample.py has it."""
    talker = train.build("talker", config).to(device).eval()
    sampling.install(talker, dtype)
    run = generate(talker, config, device, batch, patches, 2.0)
    return 1000 * take_turns({"run": run}, turns=3)["run"] / patches


def widened(config: train.Config, width: int) -> train.Config:
    """A Talker of another width, whose other widths follow."""
    return dataclasses.replace(
        config, width=width, flow_width=width, mlp_width=3 * width,
        patch_heads=config.patch_heads * width // config.width, flow_heads=4,
        head_dim=width // config.attention_heads)


def bench_growth(config: train.Config, device: torch.device,
                 dtype: torch.dtype) -> dict[str, list[tuple]]:
    """What the length of a clip in seconds, the batch and the width cost: name -> list of (value,
    milliseconds per patch)."""
    found = {"seconds": [], "batch": [], "width": []}
    for seconds in (2, 5, 10, 20, 40, 60):
        patches = round(seconds * FPS / config.patch)
        found["seconds"].append((seconds, ms_per_patch(config, device, dtype, 1, patches)))
    for batch in (1, 2, 4, 8, 16, 32):
        found["batch"].append((batch, ms_per_patch(config, device, dtype, batch, 12)))
    for width in (config.width, 2 * config.width, 4 * config.width):
        wide = widened(config, width)
        found["width"].append((width, ms_per_patch(wide, device, dtype, 1, 12)))
    return found


# ---------------------------------------------------------------------------- the released code
class Given(torch.nn.Module):
    """Stands in for an encoder of the released code: it returns what was put into it."""

    def encode(self, audio, feat, return_layout):
        return self.value

    def decode(self, latents, latent_layout):
        return torch.zeros(1, 1, 1)

    def forward(self, wave):
        return self.value


def import_released(path: Path):
    """The released modules llama4nar and speech_llm, from a checkout.

    What they import for other purposes (Liger kernels, WavLM) is replaced by empty modules.
    Latents and speaker embeddings are computed beforehand.
    """
    sys.path.insert(0, str(path))
    for name in ("liger_kernel", "liger_kernel.transformers", "speaker_verification"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["liger_kernel.transformers"].AutoLigerKernelForCausalLM = None
    sys.modules["speaker_verification"].init_model = lambda *names: Given()
    import llama4nar
    import speech_llm
    return llama4nar, speech_llm


def released_talker(path: Path, config: train.Config) -> tuple:
    """The released SpeechLLM at the sizes of config, with random weights: (their model, our Talker
    with the same weights)."""
    # Here, since few need them.
    import transformers
    from paper.weights import build_talker
    llama4nar, speech_llm = import_released(path)
    c = config

    # Their flow-matching heads take their sizes from a constant: here, from config.
    DecoderConfig = llama4nar.DecoderConfig

    def decoder_config(**fields):
        return DecoderConfig(n_layer=c.flow_layers, n_head=c.flow_heads, feat_dim=c.width,
                             hidden_size=c.width)
    llama4nar.DecoderConfig = decoder_config

    def qwen_config(attention: str):
        return transformers.Qwen3Config(
            vocab_size=c.vocabulary, hidden_size=c.width, intermediate_size=c.mlp_width,
            num_hidden_layers=c.layers, num_attention_heads=c.attention_heads,
            num_key_value_heads=c.kv_heads, head_dim=c.head_dim, rms_norm_eps=1e-6, rope_theta=1e6,
            tie_word_embeddings=True, attn_implementation=attention)

    arguments = speech_llm.ModelArguments(
        speech_embedding_dim=c.audio_latent, motion_embedding_dim=c.motion_size,
        patch_size=c.patch, delay=c.motion_delay, motion_cfm_weight=c.motion_weight,
        patch_encoder_n_layer=c.patch_layers, patch_encoder_n_head=c.patch_heads,
        cfm_k_repeat=int(c.flow_repeats))
    torch.manual_seed(0)
    theirs = speech_llm.SpeechLLM(
        transformers.Qwen3ForCausalLM(qwen_config("sdpa")), Given(),
        speech_llm.ProjectorConv1d(arguments, c.audio_latent, c.width),
        speech_llm.ProjectorConv1d(arguments, c.motion_size, c.width), qwen_config("eager"),
        arguments)

    # Ours, from their weights.
    state = {name: x.detach() for name, x in theirs.state_dict().items()}
    ours = build_talker(state, c.motion_delay, c.flow_heads, c.patch_heads, c.patch)
    ours.heads.repeats = c.flow_repeats
    return theirs, ours


def their_batch(theirs, config: train.Config, batch: dict) -> dict:
    """Our batch as SpeechLLM.forward takes it: text, then a placeholder per patch, padded on the
    right."""
    theirs.pretrained_speech_encoder.value = batch["latents"]["audio"]
    theirs.spk.value = batch["conditions"]["audio"]
    tokens = batch["text_mask"].sum(1)                                          # (B,)
    frames = batch["frames"]["audio"]                                           # (B,)
    patches = frames // config.patch
    B = len(tokens)
    total = int((tokens + patches).max())
    ids = torch.zeros(B, total, dtype=torch.long)
    mask = torch.zeros(B, total, dtype=torch.long)
    for i, (n, p) in enumerate(zip(tokens.tolist(), patches.tolist())):
        ids[i, :n] = batch["text"][i, -n:]
        mask[i, :n + p] = 1
    one = torch.zeros(B, 1, 8)
    return dict(input_ids=ids, attention_mask=mask, feat=one, mel_len=frames, audio=one,
                audio16k=one, motion_len=frames, motion=batch["latents"]["motion"],
                speech_span=torch.stack((tokens, tokens + patches), 1),
                task_tag=torch.ones_like(tokens))


def hidden_difference(theirs, ours, config: train.Config, batch: dict) -> float:
    """Largest difference of the hidden states of the first sample, relative to their scale."""
    given = their_batch(theirs, config, batch)
    seen = []
    hook = theirs.head_stop.register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0]))
    theirs.eval()
    with torch.no_grad():
        theirs(**given)
        hidden = ours.teacher_forced(**batch)[0]                                # (B, N, D)
    hook.remove()
    start = int(given["speech_span"][0, 0])
    n = int(batch["frames"]["audio"][0]) // config.patch
    difference = (hidden[0, :n] - seen[0][0, start:start + n]).abs().max()
    return (difference / hidden.abs().max()).item()


def bench_released(path: Path, config: train.Config, device: torch.device,
                   dtype: torch.dtype) -> list[dict]:
    """Training step and generation of both, same sizes and weights. ValueError if they don't
    compute the same."""
    theirs, ours = released_talker(path, config)
    batch = batch_of(config, device, config.talker_batch)
    difference = hidden_difference(theirs, ours, config, batch)

    # Generation of the first sample. Theirs makes up to 15 patches more than mel_len says.
    patches = 16
    text = batch["text"][:1]                                                    # (1, L)
    generated = dict(
        input_ids=text, feat=torch.zeros(1), audio=torch.zeros(1, 1, 8),
        mel_len=torch.tensor([max(0, patches - 15) * config.patch]),
        audio16k=torch.zeros(1, 1, 8), speech_span=torch.tensor([[text.shape[1], 0]]),
        first_motion=batch["conditions"]["motion"][0], prefix_seconds=0.0,
        cfm_steps=config.euler_steps, cfm_temperature=config.temperature, cfm_cfg=2.0,
        amp_bf16=False)
    theirs.pretrained_speech_encoder.value = batch["latents"]["audio"][:1]
    theirs.spk.value = batch["conditions"]["audio"][:1]

    def sample_theirs(kind=torch.float32) -> torch.Tensor:
        # On a CPU the released code has no autocast of its own.
        with torch.autocast(device.type, kind, enabled=kind != torch.float32):
            return theirs.generate_speech_motion(**generated)[3]

    # Ours as sample.py has it, in float32 and in the dtype that is fastest here.
    conditions = {name: x[:1] for name, x in batch["conditions"].items()}
    talkers = {}
    for kind in dict.fromkeys((torch.float32, dtype)):
        talkers[kind] = copy.deepcopy(ours)
        packed = sampling.install(talkers[kind], kind)
    kinds = list(talkers) if packed else [torch.float32]

    def noise(shape: tuple) -> torch.Tensor:
        return torch.randn(shape[0], shape[2], shape[1]).mT     # drawn in the order that theirs has

    def sample_ours(kind=torch.float32) -> torch.Tensor:
        steps = talkers[kind].generate(
            text, torch.ones_like(text, dtype=torch.bool), conditions, noise, patches,
            stop_hits=99, steps=config.euler_steps, guidance=2.0, temperature=config.temperature)
        return torch.cat([patch["motion"] for patch, _ in steps], 1)            # (1, N P, d)

    samples = []
    for run in (sample_theirs, sample_ours):
        torch.manual_seed(1)
        samples.append(run())
    error = (samples[0] - samples[1]).abs().max() / samples[0].abs().max()
    difference = max(difference, error.item())
    if difference > 1e-3:
        raise ValueError(f"the released code and this one differ by {difference:.1e} of the scale: "
                         "nothing to compare")

    # Training, by the same optimizer.
    def adamw(model) -> torch.optim.Optimizer:
        parameters = [p for p in model.parameters() if p.requires_grad]
        return torch.optim.AdamW(parameters, 1e-4, betas=(0.9, 0.95), weight_decay=0.01)

    theirs.train()
    ours.train()
    kernels.install(ours)
    given = their_batch(theirs, config, batch)
    optimizer = adamw(theirs)
    their_parameters = [p for p in theirs.parameters() if p.requires_grad]

    def train_theirs() -> None:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss = theirs(**given).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(their_parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    train_ours = training_step(ours, batch, [adamw(ours)], device, dtype)
    found = {f"training step, batch {config.talker_batch}, {dtype}":
             take_turns({"ours": train_ours, "released": train_theirs})}

    # Sampling, in both dtypes where wide weights are packed.
    theirs.eval()
    theirs.pretrained_speech_encoder.value = batch["latents"]["audio"][:1]
    theirs.spk.value = batch["conditions"]["audio"][:1]
    for kind in kinds:
        found[f"sampling {patches} patches, batch 1, {kind}"] = take_turns({
            "ours": lambda: sample_ours(kind), "released": lambda: sample_theirs(kind)})
    print(f"in float32 hidden states and samples of both differ by {difference:.0e} of their scale")
    return [{"what": name, "ours s": s["ours"], "released s": s["released"],
             "times": s["released"] / s["ours"]} for name, s in found.items()]


# --------------------------------------------------------------------------------------- output
def shown(x) -> str:
    """Three digits of a number."""
    if isinstance(x, str):
        return x
    return f"{x:.3g}" if abs(x) < 1000 else f"{x:.0f}"


def table(rows: list[dict]) -> str:
    """Dicts with the same columns -> markdown."""
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "--:|" * len(rows[0])]
    lines += ["| " + " | ".join(shown(x) for x in row.values()) + " |" for row in rows]
    return "\n".join(lines)


def plot(growth: dict[str, list[tuple]], path: Path) -> None:
    """Draw what bench_growth returns."""
    import matplotlib
    matplotlib.use("Agg")                                   # no screen needed
    from matplotlib import pyplot
    figure, axes = pyplot.subplots(1, len(growth), figsize=(10, 3), layout="constrained")
    for axis, (name, points) in zip(axes, growth.items()):
        axis.plot(*zip(*points), "o-")
        label = "length of the clip, s" if name == "seconds" else name
        axis.set(xlabel=label, ylabel="ms per patch", ylim=(0, None))
    figure.savefig(path, dpi=120)


def parse_options() -> tuple[argparse.Namespace, train.Config]:
    """The command line: options of the benchmark, and fields of Config."""
    parser = argparse.ArgumentParser(
        prog="python -m lab.bench", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=list(PARTS),
                        help="which of the above; none with --released alone: `python -m lab.bench "
                        "none --released PATH`")
    parser.add_argument("--released", type=Path, help="a checkout of the released code")
    parser.add_argument("--medium", action="store_true",
                        help="the widths of `paper` with fewer layers, instead of `small`")
    parser.add_argument("--plain", action="store_true",
                        help="parts `train` and `sample` without the faster classes of engine/")
    parser.add_argument("--compile", action="store_true",
                        help="part `sample` as sample.py --compile does, on a GPU")
    parser.add_argument("--plot", type=Path, help="draw the growth here")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    options, fields = parser.parse_known_args()

    device = pick_device()
    if options.released and device.type != "cpu":
        parser.error("--released compares on the CPU: run it with CUDA_VISIBLE_DEVICES= before the "
                     "command")
    if options.compile and device.type == "cpu":
        parser.error("--compile is for a GPU: a CPU gains nothing by it")
    for part in options.parts:
        if part not in (*PARTS, "none"):
            parser.error(f"there is no part '{part}' (fields are given as --name=value)")

    changes = MEDIUM if options.medium else {}
    config = train.parse_config([f"--{name}={value}" for name, value in changes.items()] + fields)
    return options, config


def main() -> None:
    options, config = parse_options()
    parts = set(options.parts)
    device = pick_device()
    dtype = prepare_machine(device)
    if device.type == "cuda":
        name = torch.cuda.get_device_name()
    else:
        name = f"CPU, {torch.get_num_threads()} threads"
    medium = ", widths of paper" if options.medium else ""
    plain = ", plain" if options.plain else ""
    print(f"{name}, torch {torch.__version__}, {dtype}; preset {config.config}{medium}{plain}")

    found = {}
    if {"peak", "train", "sample"} & parts:
        limits = peak(device) | {"bandwidth": bandwidth(device)}
        found["peak"] = limits
        print(f"\npeak, GFLOP/s, and GB/s of memory read\n{table([limits])}")
    if "train" in parts:
        limit = limits[dtype_name(dtype)]
        found["train"] = bench_train(config, device, dtype, limit, options.plain)
        print(f"\ntraining, batch {config.talker_batch}\n{table([found['train']])}")
    if "sample" in parts:
        found["sample"] = bench_sample(config, device, limits, dtype, options.compile,
                                       options.plain)
        print(f"\nsampling, {config.euler_steps} steps\n{table(found['sample'])}")
    if "autoencoders" in parts:
        found["autoencoders"] = bench_autoencoders(config, device)
        print(f"\nautoencoders, seconds of clip per second\n{table([found['autoencoders']])}")
    if "growth" in parts:
        found["growth"] = bench_growth(config, device, dtype)
        for what, points in found["growth"].items():
            print(f"\nms per patch against {what}: "
                  + ", ".join(f"{x}: {y:.1f}" for x, y in points))
        if options.plot:
            plot(found["growth"], options.plot)
    if options.released:
        same = dataclasses.replace(
            config, flow_width=config.width, speaker_size=256, voice_statistics=False,
            condition_backbone=False, regression_weight=0.0,
            flow_repeats=max(1.0, config.flow_repeats))
        found["released"] = bench_released(options.released, same, device, dtype)
        print("\nbeside the released code (heads as wide as the backbone, the only way it has)\n"
              f"{table(found['released'])}")

    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"\nlargest memory of this process: {memory:.1f} GB")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1, default=str) + "\n")
        print(f"{options.json}: the numbers")


if __name__ == "__main__":
    plainly(main)
