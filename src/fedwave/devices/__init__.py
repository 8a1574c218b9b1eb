"""Compute time, memory, energy, battery and availability of client and server devices. NumPy only."""
