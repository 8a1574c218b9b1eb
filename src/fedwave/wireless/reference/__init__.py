"""Sionna as reference for small cases: slot loop, link level, TR 38.901 with antennas; imported when it is called."""
