"""Parameters, operations and memory of a configuration, before it is built:

    python -m paper.describe --config paper [--field=value ...] [--gpus 8] [--teraflops 200]
                             [--seconds 10]

--gpus and --teraflops are the reader's assumption of what trains it, and how many operations per
second each of them sustains (10^12); nothing of that is measured. --seconds: of a clip.

Everything is made on torch's meta device, where tensors have shapes and no memory, so the table of
a 1 B model takes seconds on a laptop. Parameters and floating-point operations are counted, not
estimated; a multiplication and an addition are two operations.
"""
import argparse
import math

from engine.processes import plainly
import torch
from torch.utils.flop_counter import FlopCounterMode

import train
from heads import FlowHead, euler_times
from model import FPS, Block


def count(module) -> int:
    return sum(p.numel() for p in module.parameters())


def operations(function) -> float:
    """Floating-point operations of function()."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def saved_bytes(function, parameters: set[int]) -> int:
    """Bytes of activations that autograd keeps for the backward pass of function(): each storage
    once, and no parameter's."""
    kept = {}

    def keep(x):
        storage = x.untyped_storage()
        kept[storage._cdata] = storage            # held, so that no second one gets its address
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        function()
    return sum(storage.nbytes() for at, storage in kept.items() if at not in parameters)


def meta(*shape) -> torch.Tensor:
    return torch.zeros(*shape, device="meta", dtype=torch.bfloat16)


def part_title(talker, config, name: str) -> str:
    """The row of the table that a parameter of the Talker belongs to, by its name."""
    titles = {"backbone": f"backbone, {config.layers} layers", "embedding": "text embedding",
              "task": "task tags", "condition_in": "speaker embedding to the backbone",
              "absent": "tokens of absent streams", "stop": "stop predictor",
              "regressors": "auxiliary regression"}
    part, _, rest = name.partition(".")
    stream = rest.partition(".")[0]
    if part == "encoders":
        return f"patch encoder, {stream}"
    if part == "heads":
        alone = isinstance(talker.heads, torch.nn.ModuleDict) and stream in talker.heads
        return f"flow-matching head, {stream}" if alone else "flow-matching heads, joint"
    return titles.get(part, part)


def parameter_rows(talker, config, others: dict) -> list[tuple[str, int]]:
    """(part, parameters) of the Talker, which add up to the row that says so, and of the rest."""
    # Every parameter is counted under one title, so nothing is left out or counted twice.
    parts = {}
    for name, p in talker.named_parameters():
        title = part_title(talker, config, name)
        parts[title] = parts.get(title, 0) + p.numel()
    total = count(talker)
    rows = [*parts.items(), ("**Talker**", total)]

    for stage, module in others.items():
        if stage != "speaker":
            rows += [(f"{stage}: {name}", count(part)) for name, part in module.named_children()
                     if count(part) > total / 1000]
        kind = "encoder" if stage == "speaker" else "autoencoder"
        rows.append((f"**{stage} {kind}**", count(module)))
    return rows


def flow_heads(talker) -> dict[str, FlowHead]:
    """Every FlowHead of the Talker, whatever class holds it: name -> FlowHead."""
    found = {}
    for name, module in talker.heads.named_modules():
        if isinstance(module, FlowHead):
            title = f"head, {name}" if name in talker.modalities else f"joint head ({name})"
            found[title] = module
    return found


def velocity(head: FlowHead, rows: int, patch: int) -> torch.Tensor:
    """One evaluation of a head for so many patches."""
    hidden = meta(rows, head.noisy_in.out_features)
    x = meta(rows, patch, head.noisy_in.in_features)
    condition = meta(rows, head.condition_in.in_features)
    return head.velocity(x, meta(rows), hidden, x, condition)


def sampling_operations(talker, config, positions: int) -> dict[str, float]:
    """Operations of one patch at the end of a sample, by part."""
    P = config.patch
    cache = talker.backbone.new_cache(1, positions + 1)
    for layer in cache:
        layer.length = positions
    token = meta(1, 1, config.width)
    found = {"backbone": operations(lambda: talker.backbone(token, None, cache))}

    # One velocity per Euler step that moves, two where guidance needs both.
    evaluations = len(euler_times(config.euler_steps, 1.0, True)) - 1
    rows = 1 if config.guidance == 1 else 2
    for name, head in flow_heads(talker).items():
        found[name] = evaluations * operations(lambda: velocity(head, rows, P))
    for name, m in talker.modalities.items():
        x = meta(1, 1, P, m.latent)
        found[f"patch encoder, {name}"] = operations(lambda: talker.encoders[name](x))
    return found


def training_pass(talker, config, positions: int):
    """The forward pass of one sample, as a function."""
    P = config.patch
    rows = round(positions * config.flow_repeats)

    def forward():
        loss = talker.backbone(meta(1, positions + 1, config.width)).sum()
        for name, m in talker.modalities.items():
            loss = loss + talker.encoders[name](meta(1, positions, P, m.latent)).sum()
        for head in flow_heads(talker).values():
            loss = loss + velocity(head, rows, P).sum()
        return loss

    return forward


def plan(config, talker, seconds: float, operations_per_second: float, activations: float,
         gpus: int, teraflops: float) -> list[str]:
    """What a whole training takes, in sentences: time, memory of a process, latents.

    Args:
        seconds: of a clip. operations_per_second: of training, per second of audio-video.
        activations: bytes per clip. gpus, teraflops: see the top of this file.
    """
    total = config.talker_steps * config.talker_batch * seconds * operations_per_second
    days = total / (gpus * teraflops * 1e12) / 86400
    # The batch passes in pieces, each by one process.
    samples = config.talker_batch / math.lcm(config.accumulate, gpus)
    batch = samples * activations / 1e9
    whole = 16 * count(talker) / 1e9
    # FSDP gathers float32 weights when they are needed: those of one block, and what is in none.
    blocks = [count(m) for m in talker.modules() if isinstance(m, Block)]
    gathered = 4 * (count(talker) - sum(blocks) + max(blocks)) / 1e9
    numbers = sum(m.latent for m in talker.modalities.values())
    width = getattr(torch, config.latent_dtype).itemsize
    latents = config.clips * seconds * FPS * numbers * width / 1e9
    return [
        "",
        f"{config.talker_steps:,} steps of {config.talker_batch} clips of {seconds:g} s are "
        f"{total / 1e18:,.2f} EFLOP: {days:,.2g} days on {gpus} GPUs that sustain {teraflops:g} "
        f"TFLOP/s each.",
        f"Memory of a process, {samples:g} clips at a time (--accumulate={config.accumulate}): "
        f"{whole + batch:,.1f} GB, of which {batch:,.1f} are activations; with --fsdp=1 "
        f"{whole / gpus + gathered + batch:,.1f} GB.",
        f"Latents of {config.clips:,} clips of {seconds:g} s in {config.latent_dtype}: "
        f"{latents:,.1f} GB."]


def describe(config, seconds=10.0, gpus=8, teraflops=200.0) -> str:
    """The table for a train.Config, and what its training takes. seconds: of audio-video in the
    sample that the memory is for. gpus, teraflops: see the top of this file."""
    with torch.device("meta"):
        talker = train.build("talker", config).to(torch.bfloat16)
        if not (hasattr(talker, "backbone") and hasattr(talker, "heads")):
            raise ValueError(f"--talker={config.talker} has no backbone and heads to describe")
        others = {stage: train.build(stage, config) for stage in ("audio", "motion", "speaker")}
    rows = parameter_rows(talker, config, others)
    lines = ["| part | parameters |", "|---|--:|"]
    lines += [f"| {name} | {n:,} |" for name, n in rows]

    # Operations of sampling, decoding and training.
    positions = round(seconds * FPS / config.patch)
    per_second = FPS / config.patch
    sampling = sampling_operations(talker, config, positions)
    with torch.device("meta"):
        latents = torch.zeros(1, FPS, config.audio_latent)
        speaker = torch.zeros(1, config.speaker_size)
        picture = torch.zeros(1, 3, config.size, config.size)
        motion = torch.zeros(1, 1, config.motion_size)
        wave = torch.zeros(1, round(config.sample_rate * seconds))
        encoding = {
            "audio encoder": operations(lambda: others["audio"].encode(wave)) / seconds,
            "motion encoder": FPS * operations(lambda: others["motion"].pose(picture)),
            "speaker encoder": operations(lambda: others["speaker"](wave)) / seconds}
        decoding = {
            "audio decoder": operations(lambda: others["audio"].decode(latents, speaker)),
            "motion decoder": FPS * operations(lambda: others["motion"].decode(picture, motion))}
    forward = training_pass(talker, config, positions)
    training = 3 * operations(forward)            # the backward pass takes twice the forward pass

    # Memory. Weights and KV cache in bf16 for sampling; fp32 weights, gradients and two moments
    # for training.
    own = {p.untyped_storage()._cdata for p in talker.parameters()}
    activations = saved_bytes(forward, own)
    total = count(talker)
    cache = 2 * 2 * config.layers * config.kv_heads * config.head_dim * (positions + 1)
    gflop = sum(sampling.values()) * per_second / 1e9
    parts = ", ".join(f"{name} {n * per_second / 1e9:,.1f}" for name, n in sampling.items())
    encoded, decoded = (", ".join(f"{name} {n / 1e9:,.1f} GFLOP" for name, n in each.items())
                        for each in (encoding, decoding))
    lines += [
        "",
        f"Sampling takes {gflop:,.1f} GFLOP per second of audio-video ({config.euler_steps} steps, "
        f"guidance {config.guidance:g}): {parts}.",
        f"Encoding a clip of {seconds:g} s takes, per second of it, {encoded}.",
        f"Decoding takes, per second of audio-video, {decoded}.",
        f"Training takes {training / seconds / 1e9:,.1f} GFLOP per second of audio-video "
        f"({config.flow_repeats:g} draws per target).",
        f"Memory of the Talker for sampling, bf16: {(2 * total + cache) / 1e9:.2f} GB "
        f"({cache / 1e9:.3f} GB of it the KV cache of {seconds:g} s).",
        f"For training: {16 * total / 1e9:.2f} GB (fp32 weights, gradients, AdamW) and "
        f"{activations / 1e9:.2f} GB of activations per {seconds:g}-s sample in bf16, nothing "
        f"recomputed."]
    lines += plan(config, talker, seconds, training / seconds, activations, gpus, teraflops)
    if not flow_heads(talker):
        lines.append(f"{type(talker.heads).__name__} holds no heads.FlowHead: its operations and "
                     f"activations are not in these numbers.")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--teraflops", type=float, default=200.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    a, fields = parser.parse_known_args()
    if not (a.gpus >= 1 and a.teraflops > 0 and 1 <= a.seconds <= 30):
        parser.error("--gpus is at least 1, --teraflops above 0, --seconds from 1 to 30")
    print(describe(train.parse_config(fields), a.seconds, a.gpus, a.teraflops))


if __name__ == "__main__":
    plainly(main)
