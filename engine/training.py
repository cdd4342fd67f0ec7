"""The bookkeeping of a training run, around the loop of train.train_model: where it resumes, its
batches, its log and its checkpoints.

All randomness comes from the order of batches and from generators that step and piece seed anew,
so a resumed run is the same run. A batch may pass in pieces, one after the other or shared among
processes (engine/processes.py); a process prepares its next piece while a GPU computes this one.

SIGTERM, by which schedulers and containers end a program, lets a step end, saves a checkpoint, and
then ends the process. Several processes do so together, at the next line of the log.
"""
import functools
import json
import math
import multiprocessing
import sys
import time
from pathlib import Path

import torch
from torch.utils.checkpoint import checkpoint
from tqdm import tqdm

from engine.checkpoints import (checkpoint_paths, load_checkpoint, load_weights, named_if_full,
                                save_checkpoint)
from engine.machine import to_device
from engine.optimizers import optimizers
from engine.processes import (Terminated, distribute, gathered, load_optimizer, rank,
                              sigterm_noted, sum_over_processes, world)

# What a checkpoint has beside the weights, for training to go on from it.
TO_RESUME = {"optimizers", "order", "step", "seconds", "dtype"}


def recompute_blocks(transformer: torch.nn.Module) -> None:
    """Keep no activations of a Transformer's blocks: the backward pass computes them again from the
    inputs of each block (gradient checkpointing). The function and its gradients stay the same."""
    for block in transformer.blocks:
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)


class TrainingRun:
    """One stage of training, from its last checkpoint on.

    Args:
        stage: its name; the checkpoint is <out_dir>/<stage>.pt.
        model: moved to the device, and given the weights of the checkpoint if there is one.
        make_batch: make_batch(clip numbers, generator) -> name -> tensor, on the CPU.
        compute_loss: compute_loss(batch, generator) -> loss, and what to log.
        order: data.BatchOrder. steps: of the whole stage. config: train.Config.
        device; dtype: of autocast, unless the checkpoint says another.
        bar: the line of the screen that shows the progress.
    """

    def __init__(self, stage: str, model, make_batch, compute_loss, order, steps: int, config,
                 device: torch.device, dtype: torch.dtype, bar=0):
        self.stage, self.model, self.make_batch, self.order = stage, model, make_batch, order
        self.steps, self.config, self.device = steps, config, device
        self.out = Path(config.out_dir)

        # Pieces: a multiple of the number of processes, so that all of them have equally many.
        self.pieces = math.lcm(config.accumulate, world())
        self.my_pieces = range(rank(), self.pieces, world())
        if any(size % self.pieces for size in order.sizes):
            sizes = " + ".join(map(str, order.sizes))
            raise ValueError(
                f"--{stage}_batch ({sizes}) can't be cut into {self.pieces} equal "
                f"pieces (--accumulate={config.accumulate}, {world()} processes)")

        # Weights, then what wraps them in several processes, then the optimizers on top.
        path, _ = checkpoint_paths(self.out, stage)
        state = load_checkpoint(self.out, stage) if path.exists() else None
        if state and TO_RESUME - state.keys():
            raise ValueError(f"{path} lacks {', '.join(sorted(TO_RESUME - state.keys()))}, so that "
                             "training can't go on from it: delete it to train this stage again")
        self.dtype = getattr(torch, state["dtype"]) if state else dtype
        if state:
            load_weights(model, state, path)
        model.to(device).train()
        sharded = bool(config.fsdp) and stage == "talker"
        self.compute_loss, self.exchange = distribute(model, compute_loss, device, sharded)
        self.optimizers = optimizers(model, config, self.dtype)
        self.rates = [optimizer.param_groups[0]["lr"] for optimizer in self.optimizers]

        # Random numbers: for batches on the CPU, for the loss on its own device.
        self.batch_generator = torch.Generator()
        on_cpu = device.type == "cpu"
        self.generator = self.batch_generator if on_cpu else torch.Generator(device)

        # Where the checkpoint stands.
        self.first = 0
        self.seconds = 0.0
        if state:
            for optimizer, saved in zip(self.optimizers, state["optimizers"]):
                load_optimizer(optimizer, saved)
            order.load_state_dict(state["order"])
            self.first = state["step"]
            self.seconds = state["seconds"]
        self.place = order.state_dict()           # in the order of batches, after the last step
        self.bar = tqdm(range(self.first, steps), desc=stage, initial=self.first, total=steps,
                        unit="step", position=bar, disable=rank() > 0)

        # What is summed up until the next line of the log.
        self.start = time.perf_counter() - self.seconds
        self.saved = self.seconds
        self.sums = {}
        self.samples = 0
        self.norms = 0
        self.logged = self.first
        self.sigterms = []                        # see `batches`

    # ---- batches
    def prepared(self):
        """The pieces of this process, one after the other: (clip numbers of the whole batch,
        place in the order, batch on the device)."""
        for step in range(self.first, self.steps):
            indices = next(self.order)
            place = self.order.state_dict()
            for piece in self.my_pieces:
                for generator in {self.batch_generator, self.generator}:
                    generator.manual_seed(
                        self.config.seed * 1_000_003 + step * self.pieces + piece)
                batch = self.make_batch(indices[piece::self.pieces], self.batch_generator)
                yield indices, place, to_device(batch, self.device)

    def batches(self):
        """One list per step. Iterating over it gives the pieces of the batch that belong to this
        process, and exchanges gradients with the others at the last."""
        coming = self.prepared()
        following = next(coming, None)

        def pieces():
            nonlocal following
            for piece in self.my_pieces:
                self.indices, self.place, batch = following
                with self.exchange(piece == self.my_pieces[-1]):
                    yield batch
                following = next(coming, None)    # while a GPU still computes this one
            self.samples += len(self.indices)

        with sigterm_noted() as self.sigterms:
            for step in self.bar:
                yield step, pieces()
        if self.sigterms:
            raise Terminated

    # ---- rates, gradients
    def set_rates(self, scale: float) -> None:
        """The learning rate of each optimizer is its own, times scale."""
        self.scale = scale
        for optimizer, rate in zip(self.optimizers, self.rates):
            optimizer.param_groups[0]["lr"] = rate * scale

    def clip_gradients(self, step: int) -> None:
        """Limit the norm of all gradients together. RuntimeError if it is not finite."""
        norm = gathered(torch.nn.utils.clip_grad_norm_(
            self.model.parameters(), self.config.grad_clip))
        if not torch.isfinite(norm):
            raise RuntimeError(
                f"{self.stage}: the gradient is not finite at step {step}; try a smaller "
                f"--learning_rate (clips {self.indices})")
        self.norms = self.norms + norm

    # ---- log and checkpoints
    def record(self, loss, log: dict) -> None:
        """Add to the sums for the next line of the log. NaN (an empty bin) does not count."""
        for name, value in {"loss": loss.detach(), **log}.items():
            total, n = self.sums.get(name, (0, 0))
            value = value.detach()
            self.sums[name] = total + value.nan_to_num(), n + ~torch.isnan(value)

    def write_log(self, step: int) -> None:
        """Every `log_every` steps, a line of log.jsonl with means since the last one; and every
        `save_every` seconds a checkpoint. After SIGTERM both, and then Terminated is raised."""
        parent = multiprocessing.parent_process()
        if parent and not parent.is_alive():
            sys.exit(f"{self.stage}: the run that started this process has ended")
        # Several processes save together, so they must agree. They do so with the line of the log.
        at_once = self.sigterms and world() == 1
        if (step + 1) % self.config.log_every and step + 1 < self.steps and not at_once:
            return
        now = time.perf_counter() - self.start
        line = {"stage": self.stage, "step": step + 1, "lr": self.rates[0] * self.scale,
                "seconds": round(now, 2),
                "samples_per_s": round(self.samples / (now - self.seconds), 2)}

        # Sums of all processes; and whether any of them, whose clocks differ, is due to save, or is
        # to end.
        due = torch.tensor(float(now - self.saved > self.config.save_every), device=self.device)
        ending = torch.tensor(float(bool(self.sigterms)), device=self.device)
        flat = [value for pair in self.sums.values() for value in pair]
        due, ending, *totals = sum_over_processes([due, ending, *flat])
        line["gradient"] = float(self.norms) / (step + 1 - self.logged)
        for name, total, n in zip(self.sums, totals[::2], totals[1::2]):
            line[name] = without_nan((total / n).tolist())
        if rank() == 0:
            log = self.out / "log.jsonl"
            with named_if_full(log), open(log, "a") as file:
                file.write(json.dumps(line) + "\n")
        self.bar.set_postfix_str(f"loss {line['loss']:.3f}")

        self.sums, self.samples, self.norms = {}, 0, 0
        self.seconds, self.logged = now, step + 1
        if ending or due and step + 1 < self.steps:
            self.save(step + 1)
            self.saved = now
        if ending:
            raise Terminated

    def save(self, step: int) -> None:
        """Write the checkpoint: what training needs to go on after `step` steps."""
        weights = gathered(self.model.state_dict())
        moments = [gathered(optimizer.state_dict()) for optimizer in self.optimizers]
        if rank() == 0:
            save_checkpoint(self.out, self.stage, dict(
                model=weights, optimizers=moments, order=self.place, step=step,
                seconds=self.seconds, dtype=str(self.dtype).removeprefix("torch."), done=False))


def without_nan(value):
    """A mean, or the means of bins, of which empty ones are NaN: these become None, which JSON
    knows, and the others get five digits."""
    if isinstance(value, list):
        return [None if x != x else round(x, 5) for x in value]
    return value
