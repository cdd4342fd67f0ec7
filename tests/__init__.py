"""All tests but test_shapes.py, which a first reader sees. `python -m pytest` runs both.

helpers.py has what they share, recordings/ the numbers recorded from the released modules.
"""
