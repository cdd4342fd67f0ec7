"""What the seven files run on, and what a first reading can skip: the machine, optimizers,
processes, checkpoints, settings, media files and streams, and faster implementations of the
models. Nothing here imports train, sample or lab.
"""
# Whatever part of engine is asked for, its environment variables are set before torch loads.
import engine.machine  # noqa: F401
