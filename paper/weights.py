"""Released weights -> nanoTalker's modules. The tables say what goes where; tests/test_released.py
compares what both compute.

Two conversions go beyond renaming. nanoTalker keeps query, key and value (and gate and up) in one
matrix, so theirs are stacked. And the release rotates neighbouring channels (2 i, 2 i + 1) in its
patch encoders and heads, where nanoTalker rotates (i, i + half) everywhere, so the rows of those
queries and keys are reordered. Both leave the function as it is.

Files are never unpickled: only tensors are read.
"""
import json
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from engine.checkpoints import load_checkpoint
from heads import FlowHead, SeparateHeads
from model import Backbone, Modality, Talker
from paper.autoencoders import LIAX, WhisperXVAE

# --------------------------------------------------------------------------------- talker: names
# Ours (with {} for a layer's number) -> theirs; several of theirs are stacked in this order.
QKV = ("q_proj", "k_proj", "v_proj")
BACKBONE = {
    "blocks.{}.norm1.weight": "layers.{}.input_layernorm.weight",
    "blocks.{}.attention.qkv.weight": tuple(f"layers.{{}}.self_attn.{x}.weight" for x in QKV),
    "blocks.{}.attention.q_norm.weight": "layers.{}.self_attn.q_norm.weight",
    "blocks.{}.attention.k_norm.weight": "layers.{}.self_attn.k_norm.weight",
    "blocks.{}.attention.out.weight": "layers.{}.self_attn.o_proj.weight",
    "blocks.{}.norm2.weight": "layers.{}.post_attention_layernorm.weight",
    "blocks.{}.mlp.gate_up.weight": ("layers.{}.mlp.gate_proj.weight",
                                     "layers.{}.mlp.up_proj.weight"),
    "blocks.{}.mlp.down.weight": "layers.{}.mlp.down_proj.weight",
    "norm.weight": "norm.weight",
}
# The transformers of patch encoders and heads. Their qkv is reordered, see `half_rotary`.
TRANSFORMER = {
    "blocks.{}.norm1.weight": ("blocks.{}.norm1.scale",),
    "blocks.{}.attention.qkv.weight": ("blocks.{}.attn.qkv.weight",),
    "blocks.{}.attention.out.weight": ("blocks.{}.attn.proj.weight",),
    "blocks.{}.norm2.weight": ("blocks.{}.norm2.scale",),
    "blocks.{}.mlp.gate_up.weight": ("blocks.{}.mlp.fc1.weight", "blocks.{}.mlp.fc2.weight"),
    "blocks.{}.mlp.down.weight": ("blocks.{}.mlp.proj.weight",),
    "norm.weight": ("norm.scale",),
}


def both(pairs: dict[str, str]) -> dict[str, str]:
    """Names of layers -> names of their weights and biases."""
    return {f"{ours}.{part}": f"{theirs}.{part}"
            for ours, theirs in pairs.items() for part in ("weight", "bias")}


PATCH_ENCODER = (
    {f"transformer.{ours}": theirs for ours, theirs in TRANSFORMER.items()}
    | {"cls": "cls_token"} | both({"input": "input_proj"}))
PROJECTOR = both({"project": "linear1"})
HEAD = (
    {f"transformer.{ours}": tuple(f"decoder.{name}" for name in theirs)
     for ours, theirs in TRANSFORMER.items()}
    | both({"noisy_in": "in_proj", "history_in": "cond_proj", "condition_in": "global_cond_proj",
            "time.0": "time_mlp.linear_1", "time.2": "time_mlp.linear_2",
            "step.0": "delta_time_mlp.linear_1", "step.2": "delta_time_mlp.linear_2",
            "input": "decoder.input_proj", "out": "out_proj"}))


# ------------------------------------------------------------------------------------- renaming
def half_rotary(qkv: Tensor, head_dim: int) -> Tensor:
    """Rows of a stacked (3 D, D) qkv matrix: channels (0 1 2 3 ...) of each query and key head
    become (0 2 .. 1 3 ..)."""
    order = torch.cat((torch.arange(0, head_dim, 2), torch.arange(1, head_dim, 2)))

    def reordered(x: Tensor) -> Tensor:
        return x.unflatten(0, (-1, head_dim))[:, order].flatten(0, 1)         # (D, D)

    q, k, v = qkv.chunk(3)
    return torch.cat((reordered(q), reordered(k), v))


def their_names(table: dict, ours: str) -> list[str]:
    """The released names that a parameter of ours is made of, in the order of stacking."""
    parts = ours.split(".")
    layer = next((part for part in parts if part.isdigit()), None) if "blocks" in parts else None
    key = ours.replace(f"blocks.{layer}.", "blocks.{}.", 1) if layer else ours
    theirs = table[key]
    theirs = (theirs,) if isinstance(theirs, str) else theirs
    return [name.format(layer) for name in theirs]


def rename(state: dict[str, Tensor], table: dict, prefix: str, shapes: dict[str, Tensor],
           head_dim: int | None = None, used: set | None = None) -> dict[str, Tensor]:
    """Released weights -> what a module with the state_dict `shapes` loads. ValueError with the
    names of those that are missing or misshapen.

    prefix: of their names. head_dim: given where the release rotates neighbouring channels.
    used: gets the names that were found.
    """
    found = {}
    problems = []
    for ours, shape in ((name, tuple(x.shape)) for name, x in shapes.items()):
        names = [prefix + name for name in their_names(table, ours)]
        missing = [name for name in names if name not in state]
        if missing:
            problems += [f"missing: {name}" for name in missing]
            continue
        if used is not None:
            used.update(names)
        x = torch.cat([state[name] for name in names])
        if head_dim and ours.endswith("qkv.weight"):
            x = half_rotary(x, head_dim)
        # Theirs has axes of length 1 here and there.
        if [n for n in x.shape if n > 1] != [n for n in shape if n > 1]:
            problems.append(f"misshapen: {' + '.join(names)} is {tuple(x.shape)}, {ours} needs "
                            f"{shape}")
            continue
        found[ours] = x.reshape(shape)
    if problems:
        raise ValueError(f"these are not the weights of this model ({len(problems)} problems):\n  "
                         + "\n  ".join(problems[:40]))
    return found


def require(state: dict[str, Tensor], names) -> None:
    """ValueError unless the weights look like what they should be."""
    missing = [name for name in names if name not in state]
    if missing:
        raise ValueError(f"these are not the weights of this model: missing {', '.join(missing)}; "
                         f"there are {', '.join(sorted(state)[:5])} ...")


def no_surplus(state, used: set[str], others: tuple[str, ...], constant: str) -> None:
    """ValueError with the names of weights that were not used, except for names that begin like
    others or end like a constant."""
    surplus = [name for name in state if name not in used and not name.startswith(others)
               and not name.endswith(constant)]
    if surplus:
        raise ValueError(f"{len(surplus)} weights that this model has no place for:\n  "
                         + "\n  ".join(f"surplus: {name}" for name in surplus[:40]))


def layers_of(state: dict[str, Tensor], prefix: str) -> int:
    """How many numbers follow the prefix."""
    return len({name[len(prefix):].split(".")[0] for name in state if name.startswith(prefix)})


# --------------------------------------------------------------------------------------- talker
STREAMS = {"audio": "speech", "motion": "motion"}         # ours -> theirs


def load_talker(talker: Talker, state: dict[str, Tensor]) -> None:
    """Fill a Talker (two modalities, separate heads) with a released speech_llm state dict."""
    used = set()

    def fill(module, table, prefix, transformer=None, more=None) -> None:
        """transformer: where the release rotates neighbouring channels. more: what is loaded
        beside it."""
        shapes = {name: x for name, x in module.state_dict().items()
                  if not name.startswith("project.")}
        head_dim = transformer.blocks[0].attention.head_dim if transformer else None
        found = rename(state, table, prefix, shapes, head_dim, used)
        module.load_state_dict(found | (more or {}))

    fill(talker.backbone, BACKBONE, "llm.model.")
    for ours, theirs in STREAMS.items():
        head, encoder = talker.heads[ours], talker.encoders[ours]
        fill(head, HEAD, f"{theirs}_cfm.estimator.", head.transformer)
        shapes = {f"project.{name}": x for name, x in encoder.project.state_dict().items()}
        projector = rename(state, PROJECTOR, f"projector_{theirs}.", shapes, used=used)
        fill(encoder, PATCH_ENCODER, f"{theirs}_patch_encoder.", encoder.transformer, projector)

    rest = {"llm.model.embed_tokens.weight": talker.embedding.weight,
            "task_embedding.weight": talker.task.weight, "motion_pad_emb": talker.absent["motion"],
            "head_stop.proj.weight": talker.stop.project.weight,
            "head_stop.proj.bias": talker.stop.project.bias,
            "head_stop.head.weight": talker.stop.out.weight}
    found = rename(state, {name: name for name in rest}, "", rest, used=used)
    with torch.no_grad():
        for name, ours in rest.items():
            ours.copy_(found[name])
    # What is left are the tied output of the language model, other models, and tables of angles.
    no_surplus(state, used, ("llm.lm_head.", "pretrained_speech_encoder.", "spk."), "rope.w")


def build_talker(state: dict[str, Tensor], delay=0, dit_heads=8, patch_heads=8, patch=4) -> Talker:
    """The released speech_llm, loaded. Sizes are read off the weights, except for the numbers of
    attention heads."""
    layer = "llm.model.layers.0."
    require(state, ("llm.model.embed_tokens.weight", layer + "self_attn.q_norm.weight",
                    "speech_cfm.estimator.in_proj.weight"))

    def shape(name: str) -> torch.Size:
        return state[name].shape

    vocabulary, width = shape("llm.model.embed_tokens.weight")
    head_dim = shape(layer + "self_attn.q_norm.weight")[0]
    backbone = Backbone(
        width, layers_of(state, "llm.model.layers."),
        shape(layer + "self_attn.q_proj.weight")[0] // head_dim,
        shape(layer + "self_attn.k_proj.weight")[0] // head_dim, head_dim,
        shape(layer + "mlp.up_proj.weight")[0])
    modalities = {}
    for name, theirs in STREAMS.items():
        latent = shape(f"{theirs}_cfm.estimator.in_proj.weight")[1]
        condition = shape(f"{theirs}_cfm.estimator.global_cond_proj.weight")[1]
        lag = delay if name == "motion" else 0
        modalities[name] = Modality(latent, condition, delay=lag)

    def head_size(theirs: str) -> tuple[int, int]:
        """Width and layers of a head."""
        decoder = f"{theirs}_cfm.estimator.decoder."
        return shape(decoder + "input_proj.weight")[0], layers_of(state, decoder + "blocks.")

    # Both heads have the size of the audio's, unless the weights say otherwise.
    usual = head_size("speech")
    heads = SeparateHeads(modalities, width, *usual, dit_heads, patch)
    for name, m in modalities.items():
        size = head_size(STREAMS[name])
        if size != usual:
            heads[name] = FlowHead(m.latent, m.condition, width, *size, dit_heads)

    # In generation the release adds nothing for a delayed stream that has not begun, though its
    # training encodes absence. Its weights are sampled as it samples them.
    talker = Talker(
        modalities, heads, backbone, vocabulary, patch,
        layers_of(state, "speech_patch_encoder.blocks."), patch_heads, encode_absence=False)
    load_talker(talker, state)
    return talker.eval()


def check_released_settings(talker: Talker, folder: Path) -> None:
    """ValueError where the released config.json says what the weights can't, and the talker has it
    otherwise."""
    about = folder / "config.json"
    about = json.loads(about.read_text()) if about.exists() else {}
    first = next(iter(STREAMS))
    heads, encoder = talker.heads[first].transformer, talker.encoders[first].transformer
    ours = {"patch_size": ("patch", talker.patch),
            "delay": ("motion_delay", talker.modalities["motion"].delay),
            "dit_n_head": ("flow_heads", heads.blocks[0].attention.heads),
            "patch_encoder_n_head": ("patch_heads", encoder.blocks[0].attention.heads)}
    other = [f"--{option}={about[name]} (not {value})" for name, (option, value) in ours.items()
             if about.get(name, value) != value]
    if other:
        raise ValueError(f"the released talker in {folder} has {', '.join(other)}")


def start_from(talker: Talker, source: str) -> bool:
    """Give a talker its first weights: everything of an earlier run of the same sizes (its folder)
    or of the released talker (the folder with its safetensors and config.json), or backbone and
    embedding of Qwen3 (a folder of safetensors, or a name on Hugging Face). Returns whether that
    was everything."""
    checkpoint = Path(source) / "talker.pt"
    if checkpoint.exists():
        state = load_checkpoint(Path(source), "talker")
        try:
            talker.load_state_dict(state["model"])
        except RuntimeError as error:
            reason = str(error).splitlines()[1].strip()[:200]
            raise ValueError(f"--start={source}: its talker has other sizes, is not finished, or "
                             f"was made by another version of nanoTalker ({reason})") from None
        return True
    if Path(source).is_dir():
        state = read_weights(Path(source), "*.safetensors")
        if "llm.model.embed_tokens.weight" in state:
            check_released_settings(talker, next(Path(source).rglob("*.safetensors")).parent)
            load_talker(talker, state)
            return True
    else:
        try:
            from transformers import AutoModelForCausalLM
        except ImportError:
            raise RuntimeError(f"'{source}' is no folder; to fetch it from Hugging Face: pip "
                               f"install transformers") from None
        state = AutoModelForCausalLM.from_pretrained(source).float().state_dict()
    backbone, embedding = talker.backbone, talker.embedding
    backbone.load_state_dict(rename(state, BACKBONE, "model.", backbone.state_dict()))
    embedding.load_state_dict(rename(
        state, {"weight": "embed_tokens.weight"}, "model.", embedding.state_dict()))
    return False


# ---------------------------------------------------------------------------- audio autoencoder
WHISPER = both({
    "conv1": "conv1", "conv2": "conv2", "norm": "ln_post",
    "blocks.{}.norm1": "blocks.{}.attn_ln", "blocks.{}.norm2": "blocks.{}.mlp_ln",
    "blocks.{}.query": "blocks.{}.attn.query", "blocks.{}.key": "blocks.{}.attn.key",
    "blocks.{}.value": "blocks.{}.attn.value", "blocks.{}.out": "blocks.{}.attn.out",
    "blocks.{}.up": "blocks.{}.mlp.0", "blocks.{}.down": "blocks.{}.mlp.2"})


def strided(strides: int, decoder: bool) -> dict[str, str]:
    """The table of DAC's encoder or decoder: our flat list of layers -> their blocks, `strides` of
    them. A layer with weight normalisation keeps its gain and its direction apart."""
    def layer(ours: str, theirs: str) -> dict[str, str]:          # a convolution or an activation
        table = {f"layers.{ours}.bias": f"{theirs}.bias",
                 f"layers.{ours}.alpha": f"{theirs}.alpha"}
        for i, kind in enumerate("gv"):
            name = f"layers.{ours}.parametrizations.weight.original{i}"
            table[name] = f"{theirs}.weight_{kind}"
        return table

    table = layer("0", "0")
    at = 1
    for block in range(1, strides + 1):
        for part in range(5):
            # Three residual units, then activation and convolution; the decoder has these first.
            theirs = f"{block}.block.{part}"
            if part > 1 if decoder else part < 3:
                for inner in range(4):
                    table |= layer(f"{at}.layers.{inner}", f"{theirs}.block.{inner}")
            else:
                table |= layer(str(at), theirs)
            at += 1
    return table | layer(str(at), str(strides + 1)) | layer(str(at + 1), str(strides + 2))


def load_audio(vae: WhisperXVAE, state: dict[str, Tensor]) -> None:
    """Fill a WhisperXVAE with the state dict of the released WhisperX-VAE."""
    bottleneck = {"in_proj": vae.to_latent, "out_proj": vae.from_latent}
    used = {f"vae.{name}.{part}" for name in bottleneck
            for part in ("weight_g", "weight_v", "bias")}
    require(state, sorted(used))
    strides = len(vae.strides)
    for module, table, prefix in (
            (vae.acoustic, strided(strides, False), "CodecEnc.block."),
            (vae.decoder, strided(strides, True), "CodecDec.model."),
            (vae.semantic, WHISPER, "semantic_model.encoder.")):
        module.load_state_dict(rename(state, table, prefix, module.state_dict(), used=used))
    # The rest of the file is the decoder of Whisper, discriminators and so on. Whisper's positions
    # are computed here.
    parts = ("CodecEnc.", "CodecDec.", "vae.", "semantic_model.encoder.")
    no_surplus([n for n in state if n.startswith(parts)], used, (), "positional_embedding")
    with torch.no_grad():
        for name, linear in bottleneck.items():
            weight = torch._weight_norm(
                state[f"vae.{name}.weight_v"], state[f"vae.{name}.weight_g"], 0)
            linear.weight.copy_(weight[..., 0])
            linear.bias.copy_(state[f"vae.{name}.bias"])


def build_audio(state: dict[str, Tensor], heads: int | None = None) -> WhisperXVAE:
    """The released WhisperX-VAE, loaded. heads: of Whisper; of 64 channels each, if not given."""
    require(state, ("CodecEnc.block.0.weight_v", "vae.out_proj.weight_v",
                    "semantic_model.encoder.positional_embedding"))

    def shape(name: str) -> torch.Size:
        return state[name].shape

    depth = layers_of(state, "CodecEnc.block.") - 3
    strides = tuple(shape(f"CodecEnc.block.{i + 1}.block.4.weight_v")[2] // 2
                    for i in range(depth))
    context, width = shape("semantic_model.encoder.positional_embedding")
    vae = WhisperXVAE(
        25 * int(np.prod(strides)), shape("CodecEnc.block.0.weight_v")[0], strides, width,
        shape("CodecDec.model.0.weight_v")[0], shape("vae.out_proj.weight_v")[1],
        shape("semantic_model.encoder.conv1.weight")[1], context / 50, heads or width // 64,
        layers_of(state, "semantic_model.encoder.blocks."))
    load_audio(vae, state)
    return vae.eval()


def load_whisper(encoder, path: Path) -> None:
    """Fill a WhisperEncoder with OpenAI's weights, such as large-v3.pt. Their file holds the
    decoder too, which is left out."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file. Whisper's weights are those that "
                                f"`whisper.load_model('large-v3')` keeps in ~/.cache/whisper")
    state = read_weights(path.parent, path.name)
    used = set()
    encoder.load_state_dict(rename(state, WHISPER, "encoder.", encoder.state_dict(), used=used))
    parts = [name for name in state if name.startswith("encoder.")]
    no_surplus(parts, used, (), "positional_embedding")   # which is computed here


# --------------------------------------------------------------------------- motion autoencoder
def motion_table(levels: int) -> dict[str, str]:
    """The table of LIA-X with so many sizes from 8 x 8 on."""
    table = {"first.weight": "enc.enc_2r.block1.0.weight", "first.bias": "enc.enc_2r.block1.1.bias",
             "code.weight": "enc.enc_2r.block8.weight", "directions": "dec.direction.weight",
             "start": "dec.input.input"} | both({"magnitudes": "enc.enc_r2t.0"})

    def modulated(ours: str, theirs: str) -> dict[str, str]:
        return {f"{ours}.weight": f"{theirs}.conv.weight",
                f"{ours}.bias": f"{theirs}.activate.bias"} | both(
                    {f"{ours}.scale": f"{theirs}.conv.modulation"})

    table |= modulated("start_conv", "dec.conv1")
    for i in range(levels):
        last = i == levels - 1
        block = "enc.enc_2r.block_512" if last else f"enc.enc_2r.block{i + 2}.0"
        table |= {f"down.{i}.conv1.weight": f"{block}.conv1.0.weight",
                  f"down.{i}.conv1.bias": f"{block}.conv1.1.bias",
                  f"down.{i}.conv2.weight": f"{block}.conv2.1.weight",
                  f"down.{i}.conv2.bias": f"{block}.conv2.2.bias",
                  f"down.{i}.skip.weight": f"{block}.skip.1.weight"}
        # dec.conv2_1 and so on, but dec.conv_512_1 for the level that 512 pixels need.
        n = i + 1 if i else "_512"
        level = f"levels.{i}"
        table |= modulated(f"{level}.up", f"dec.conv{n}_1")
        table |= modulated(f"{level}.flow", f"dec.flow{n}")
        table |= {f"{level}.flow.bias": f"dec.flow{n}.bias",
                  f"{level}.tint": f"dec.rgb{n}.bias",
                  f"{level}.picture.weight": f"dec.rgb{n}.conv.0.weight",
                  f"{level}.picture.bias": f"dec.rgb{n}.conv.1.bias",
                  f"{level}.grow.weight": f"dec.conv{n}_2_up.1.weight",
                  f"{level}.grow.bias": f"dec.conv{n}_2_up.2.bias"}
        for j in range(4):
            plan, refine = f"dec.conv{n}_2.{j}", f"dec.conv{n}_2_rgb.{j}"
            table |= {f"{level}.plan.{j}.gamma": f"{plan}.gamma"}
            table |= both({f"{level}.plan.{j}.norm": f"{plan}.norm"})
            for k in (1, 2):
                ours = f"{level}.refine.{j}.conv{k}"
                table |= modulated(f"{level}.plan.{j}.conv{k}", f"{plan}.conv{k}")
                table |= {f"{ours}.weight": f"{refine}.conv{k}.0.weight",
                          f"{ours}.bias": f"{refine}.conv{k}.1.bias"}
    return table


def load_motion(lia: LIAX, state: dict[str, Tensor]) -> None:
    """Fill a LIAX with the released lia-x.pt. The release scales its weights at run time; here
    that is done once."""
    shapes = {name: x for name, x in lia.state_dict().items()
              if not name.startswith("standardize.")}
    used = set()
    found = rename(state, motion_table(len(lia.levels)), "", shapes, used=used)
    no_surplus(state, used, (), "kernel")         # the smoothing kernels are always the same
    for name, x in found.items():
        if name.endswith(".weight") and x.ndim > 1:
            found[name] = x * x[0].numel() ** -0.5
    lia.load_state_dict(found, strict=False)


def build_motion(state: dict[str, Tensor]) -> LIAX:
    """The released LIA-X, loaded."""
    require(state, ("dec.direction.weight", "dec.input.input", "dec.conv_512_1.conv.weight"))
    levels = 1 + sum(f"dec.conv{n}_1.conv.weight" in state for n in range(2, 20))
    style, directions = state["dec.direction.weight"].shape

    def channels(n: int) -> int:
        if n > levels:
            return state["dec.input.input"].shape[1]
        return state[f"dec.conv{n}_1.conv.weight"].shape[1]

    lia = LIAX(style, tuple(channels(n) for n in (4, 5, 6, 7)), directions, 4 << levels)
    load_motion(lia, state)
    return lia.eval()


# ---------------------------------------------------------------------------------------- files
def read_safetensors(path: Path) -> dict[str, Tensor]:
    """A .safetensors file: eight bytes of length, a JSON header, the numbers."""
    kinds = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16,
             "BF16": torch.bfloat16, "I64": torch.int64, "I32": torch.int32, "U8": torch.uint8,
             "BOOL": torch.bool}
    raw = np.memmap(path, np.uint8, "r")
    length = int(raw[:8].view("<u8")[0])
    if length > len(raw):
        raise ValueError(f"{path} is not a safetensors file, or only part of one")
    found = {}
    for name, about in json.loads(raw[8:8 + length].tobytes()).items():
        if name == "__metadata__":
            continue
        start, end = (8 + length + offset for offset in about["data_offsets"])
        numbers = torch.frombuffer(bytearray(raw[start:end]), dtype=kinds[about["dtype"]])
        found[name] = numbers.reshape(about["shape"])
    return found


def read_weights(folder: Path, pattern: str) -> dict[str, Tensor]:
    """All weights of the files in folder (or below) that match: .safetensors (sharded or not),
    .ckpt, .pt. Nothing is unpickled."""
    paths = [path for path in sorted(Path(folder).rglob(pattern))
             if not path.with_suffix(".weights" + path.suffix).exists()]
    if not paths:
        raise FileNotFoundError(f"{folder} holds no {pattern}")
    found = {}
    for path in paths:
        if path.suffix == ".safetensors":
            found |= read_safetensors(path)
            continue
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            raise ValueError(
                f"{path} holds more than tensors, and nanoTalker runs no code from a file. To "
                f"take out the tensors alone, convert it once:\n  python -c \"from paper.weights "
                f"import convert; convert({str(path)!r})\"") from None
        found |= tensors(state)
    return {name: x.float() for name, x in found.items()}


def tensors(state: dict) -> dict[str, Tensor]:
    """The weights of a checkpoint, which may lie one level down."""
    state = state.get("state_dict", state.get("model_state_dict", state))
    return {name: x for name, x in state.items() if isinstance(x, Tensor)}


def convert(path: str) -> None:
    """Write the tensors of a checkpoint that holds more (settings, say) beside it. No code of it
    runs: other objects become empty dictionaries."""
    path = Path(path)
    empty = type("Empty", (), {"__new__": lambda cls, *_, **__: OrderedDict()})
    with safe_globals([(empty, name) for name in get_unsafe_globals_in_checkpoint(path)]):
        state = torch.load(path, map_location="cpu", weights_only=True)
    out = path.with_suffix(".weights" + path.suffix)
    torch.save(tensors(state), out)
    print(f"{out}: the tensors of {path}, which is read no more. Next: the command that named it")


def read_vector(path: Path, size: int) -> Tensor:
    """A speaker embedding from a .npy or .pt file -> (size,)."""
    try:
        if path.suffix == ".npy":
            x = torch.from_numpy(np.load(path))
        else:
            x = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        x = None
    if not isinstance(x, Tensor) or x.numel() != size:
        raise ValueError(f"{path}: the speaker embedding must be one tensor of {size} numbers; "
                         f"here is {x if x is None else type(x).__name__}")
    return x.float().flatten()
