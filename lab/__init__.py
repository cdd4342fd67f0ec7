"""Experiments, measures and pictures: the cartoon speakers, benchmarks, evaluation, contact sheets.
For whoever judges a model or a change; train.py and data.py need lab.cartoon alone.

A module that computes with torch begins with `from engine import machine` (or imports a name from
engine), since that sets environment variables which have to be there before torch loads.
"""
