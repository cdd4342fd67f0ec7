"""English for the voice: text to phones (text.py, spelling.py, the lexicon of the CMU Pronouncing
Dictionary), and the sentences that the synthetic corpus says.
"""
