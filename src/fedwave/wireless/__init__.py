"""The radio: channel, link, scheduling, over-the-air computation and the networks built from them. NumPy only."""
