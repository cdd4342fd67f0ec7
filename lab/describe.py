"""What a configuration costs, before it is built:  python train.py --config paper --describe

Everything is made on torch's meta device, where tensors have shapes and no memory, so the table of a 1 B model takes seconds on a
laptop. Parameters and floating-point operations are counted, not estimated; a multiplication and an addition are two operations.
"""
import torch
from torch.utils.flop_counter import FlopCounterMode

import train
from autoencoders import FPS


def count(module) -> int:
    return sum(p.numel() for p in module.parameters())


def operations(function) -> float:
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def saved_bytes(function, parameters: set[int]) -> int:
    """Bytes of activations that autograd keeps for the backward pass of function(): each storage once, and no parameter's."""
    kept = {}
    def keep(x):
        kept[x.untyped_storage()._cdata] = x.untyped_storage()           # held, so that no second one gets its address
        return x
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        function()
    return sum(s.nbytes() for at, s in kept.items() if at not in parameters)


def describe(config, seconds=10.0) -> str:
    """The table for a train.Config; seconds: of audio-video in the sample that the memory is for."""
    with torch.device("meta"):
        talker = train.build("talker", config).to(torch.bfloat16)
        others = {stage: train.build(stage, config) for stage in ("audio", "motion", "speaker")}
    P, D, N = config.patch, config.width, round(seconds * FPS / config.patch)
    per_second = FPS / P
    rows = [(f"backbone, {config.layers} layers", count(talker.backbone)), ("text embedding and task tags", count(talker.embedding) + count(talker.task))]
    rows += [(f"patch encoder, {name}", count(m)) for name, m in talker.encoders.items()]
    rows += [(f"flow-matching head, {name}", count(m)) for name, m in talker.heads.items()]
    rows += [("stop predictor, auxiliary regression, rest", count(talker.stop) + count(talker.regressors) + talker.no_video.numel())]
    total = sum(n for _, n in rows)
    assert total == count(talker)
    meta = lambda *shape: torch.zeros(*shape, device="meta", dtype=torch.bfloat16)
    rows += [("**Talker**", total)]
    for stage, m in others.items():
        rows += [(f"{stage}: {name}", count(part)) for name, part in m.named_children() if stage != "speaker" and count(part) > total / 1000]
        rows += [(f"**{stage} {'encoder' if stage == 'speaker' else 'autoencoder'}**", count(m))]
    lines = ["| part | parameters |", "|---|--:|"] + [f"| {name} | {n:,} |" for name, n in rows]

    cache = talker.backbone.new_cache(1, N + 1)
    for layer in cache:
        layer.length = N                          # a step at the end of the sample
    evaluations = config.steps - max(1, int(0.04 * (config.steps + 1)))
    rows_per_evaluation = 1 if config.guidance == 1 else 2
    sampling = {"backbone": operations(lambda: talker.backbone(meta(1, 1, D), None, cache))}
    for name, m in talker.modalities.items():
        head, context = talker.heads[name], meta(rows_per_evaluation, 1 + P, config.head_width)
        sampling[f"head, {name}"] = evaluations * operations(lambda: head.velocity(
            meta(rows_per_evaluation, P, m.latent), head.input(meta(rows_per_evaluation, D) + head.clock(meta(1))), context))
        sampling[f"patch encoder, {name}"] = operations(lambda: talker.encoders[name](meta(1, 1, P, m.latent)))

    def step():
        loss, n = talker.backbone(meta(1, N + 1, D)).sum(), round(N * config.repeats)
        for name, m in talker.modalities.items():
            loss = loss + talker.encoders[name](meta(1, N, P, m.latent)).sum()
            head = talker.heads[name]
            context = head.context(meta(n, P, m.latent), meta(n, m.condition))
            loss = loss + head.velocity(meta(n, P, m.latent), head.input(meta(n, D) + head.clock(meta(n))), context).sum()
        return loss
    training = 3 * operations(step)               # the backward pass takes twice the forward pass
    activations = saved_bytes(step, {p.untyped_storage()._cdata for p in talker.parameters()})
    one = sum(sampling.values()) * per_second
    keys = 2 * 2 * config.layers * config.kv_heads * config.head_dim * (N + 1)
    with torch.device("meta"):
        pictures = torch.zeros(1, 3, config.size, config.size)
        decoding = {"audio decoder": operations(lambda: others["audio"].decode(torch.zeros(1, FPS, config.audio_latent), torch.zeros(1, config.speaker_size))),
                    "motion decoder": FPS * operations(lambda: others["motion"].decode(pictures, torch.zeros(1, 1, config.motion_size)))}
    GB = 1e9
    lines += ["", f"Sampling takes {one / 1e9:,.1f} GFLOP per second of audio-video ({config.steps} steps, guidance {config.guidance:g}): "
              + ", ".join(f"{name} {n * per_second / 1e9:,.1f}" for name, n in sampling.items()) + ".",
              "Decoding takes, per second of audio-video, " + ", ".join(f"{name} {n / 1e9:,.1f} GFLOP" for name, n in decoding.items()) + ".",
              f"Training takes {training / seconds / 1e9:,.1f} GFLOP per second of audio-video ({config.repeats:g} draws per target).",
              f"Memory of the Talker for sampling, bf16: {(2 * total + keys) / GB:.2f} GB ({keys / GB:.3f} GB of it keys and values of {seconds:g} s).",
              f"For training: {16 * total / GB:.2f} GB (fp32 weights, gradients, AdamW) and {activations / GB:.2f} GB of activations per {seconds:g}-s sample"
              " in bf16, nothing recomputed."]
    return "\n".join(lines)
