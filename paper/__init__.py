"""The paper at its own size: its autoencoders, the released weights and their names, the tokenizer
of its language model, and what a configuration costs. For those who have the released files, or a
GPU; a first reading can skip it.
"""
