"""Experiments, measures and pictures: the cartoon speakers, benchmarks, evaluation, contact sheets.
For evaluating models and changes. data.py needs lab.cartoon, train.py runs lab.grid at its end.

A module that computes with torch begins with `from engine import machine` (or imports a name from
engine), since that sets environment variables which have to be there before torch loads.
"""
